"""EXL2's storage against matrices that tests/exl2_writer.py makes, whole and cut between rows."""

from __future__ import annotations

import numpy as np
import pytest

from exl2_writer import Exl2Matrix, quantize_exl2
from octuor.errors import ShapeError
from octuor.quant.exl2 import Exl2, permutation_error, read_groups
from octuor.weights import Weight

GROUPS = {
    "all bits": [(8, 32), (6, 32), (5, 64), (4, 32), (3, 32), (2, 64)],
    "a bit in several groups": [(5, 32), (5, 32), (3, 64), (3, 32), (3, 32)],
    "an odd end": [(4, 32), (3, 21)],
}


def exl2_weight(case: str, out: int) -> tuple[Weight, Exl2Matrix]:
    """A weight whose padding is cut off, and where it comes from."""
    groups = GROUPS[case]
    inputs = sum(n for _, n in groups)
    rng = np.random.default_rng(2)
    matrix = quantize_exl2(rng.standard_normal((out, inputs)).astype(np.float32) * np.float32(0.05), groups, rng)
    parts = {name: x for name, x in matrix.tensors.items() if name != "q_weight"}
    parts["q_scale"] = parts["q_scale"][:, : -(-out // 8)]
    return Weight(matrix.tensors["q_weight"][:, :out], (out, inputs), Exl2(), "w", parts), matrix


@pytest.mark.parametrize("out", [32, 41])
@pytest.mark.parametrize("case", GROUPS)
def test_weights_are_those_that_were_written(case: str, out: int) -> None:
    weight, matrix = exl2_weight(case, out)
    assert np.array_equal(weight.to_f32(), matrix.numbers)


def test_rows_are_those_of_the_whole_and_views() -> None:
    weight, matrix = exl2_weight("all bits", 41)
    for start, stop in ((0, 8), (8, 41), (16, 19), (40, 41)):
        rows = weight.rows(start, stop)
        assert np.array_equal(rows.to_f32(), matrix.numbers[start:stop])
        assert np.shares_memory(rows.data, weight.data)


def test_groups_are_read_with_their_inputs() -> None:
    weight, _ = exl2_weight("an odd end", 32)
    first, last = read_groups(weight.parts["q_groups"], 53)
    assert (first.bits, first.row, first.begin, first.end) == (4, 0, 0, 32)
    assert (last.bits, last.row, last.begin, last.end) == (3, 4, 32, 53)


@pytest.mark.parametrize(
    ("q_groups", "message"),
    [
        ([7, 0, 2, 8], "expected groups of 2, 3, 4, 5, 6, 8 bits, found 7"),
        ([8, 1, 6, 8], "one below the other"),
        ([8, 8, 6, 0], "one below the other"),
        ([8, 0, 6, 0], "one below the other"),
        ([8, 0, 6, 1000], "one below the other"),
        ([8, 0, 6, -1], "one below the other"),
        ([2, 0, 2, 20], "expected 256 inputs in its groups"),
        ([8, 0, 6, 9], "expected 256 inputs in its groups"),
        ([8, 0, 6], r"q_groups int16 \[2 \* groups\]"),
        ([], r"q_groups int16 \[2 \* groups\]"),
    ],
)
def test_impossible_groups_are_refused(q_groups: list[int], message: str) -> None:
    weight, _ = exl2_weight("all bits", 32)
    n = len(q_groups) // 2
    parts = dict(weight.parts) | {"q_groups": np.array(q_groups, np.int16)}
    parts |= {"q_scale": parts["q_scale"][:n], "q_scale_max": parts["q_scale_max"][:n]}
    with pytest.raises(ShapeError, match=message):
        Weight(weight.data, weight.shape, Exl2(), "w", parts)


def test_an_order_must_hold_each_input_once() -> None:
    assert permutation_error(np.array([2, 0, 1], np.int32)) is None
    for wrong in ([0, 0, 1], [0, 1, 3], [-1, 0, 1], [2**31 - 1, 0, 1]):
        assert permutation_error(np.array(wrong, np.int32)) is not None
