"""Storages without kernels of their own: decoded once, to the narrowest plain numbers that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from definitions import random
from octuor.ops import decoded as module
from octuor.ops.decoded import decoded
from octuor.ops.native import NativeOps, runs_in_place
from octuor.quant import BF16, F16, F32, Q4, Format
from octuor.quant.base import Array, Parts
from octuor.weights import Weight


@dataclass(frozen=True)
class Negated:
    """A storage that no kernel knows: the numbers with the other sign."""

    name: str = "negated"
    row_multiple: int = 3

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:  # noqa: ARG002
        return None

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        assert start % self.row_multiple == 0
        return data[start:stop], parts

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:  # noqa: ARG002
        return -data.astype(np.float32)


def of_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return BF16.dequantize(BF16.quantize(x), x.shape)


@pytest.mark.parametrize(
    ("row", "rounds"),
    [(BF16, of_bf16), (F16, lambda x: x.astype(np.float16)), (F32, lambda x: x)],
    ids=lambda row: row.name if isinstance(row, Format) else "",
)
def test_values_are_kept_in_the_narrowest_numbers(
    monkeypatch: pytest.MonkeyPatch, row: Format, rounds: Callable[[NDArray[np.float32]], Array]
) -> None:
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 250)  # blocks of 6 rows, the last one of 4
    weight = Weight(rounds(random(70, 40)), (70, 40), Negated(), "wq")
    found = decoded(weight)
    assert (found.format, found.shape, found.name) == (row, weight.shape, "wq")
    np.testing.assert_array_equal(found.to_f32(), weight.to_f32())


def test_one_value_of_a_late_block_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 250)
    x = of_bf16(random(70, 40))
    x[69, 39] = 1.0001
    assert decoded(Weight(x, x.shape, Negated())).format == F32
    x[69, 39] = 1e30  # beyond f16, not in bf16
    assert decoded(Weight(x, x.shape, Negated())).format == F32


def test_vectors_and_numbers_that_are_not_finite() -> None:
    x = np.array([1.0, np.inf, np.nan, -0.0], dtype=np.float32)
    found = decoded(Weight(x, (4,), Negated()))
    assert found.format == BF16
    np.testing.assert_array_equal(found.to_f32(), -x)


def test_native_kernels_run_what_they_do_not_know() -> None:
    ops = NativeOps(threads=1)
    assert runs_in_place(Q4)
    assert not runs_in_place(Negated())
    x, data = random(5, 40), of_bf16(random(70, 40))
    leaf = ops.put(Weight(data, data.shape, Negated()))
    assert leaf.format == "bf16"
    np.testing.assert_array_equal(ops.linear(x, leaf), ops.linear(x, ops.put(Weight(-data, data.shape, F32))))
