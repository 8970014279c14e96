"""GPTQ matrices packed bit by bit here, and those that gptqmodel packed."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.errors import FormatError, ShapeError
from octuor.quant.gptq import BITS, Gptq
from octuor.weights import Weight
from packed import Stored, gptq
from quant.recorded import recorded


def weight(stored: Stored, storage: Gptq, *, shape: tuple[int, ...] | None = None) -> Weight:
    parts = dict(stored.tensors)
    return Weight(parts.pop("qweight"), shape or stored.values.shape, storage, "layers.0.wq", parts)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("zero_offset", [0, 1])
@pytest.mark.parametrize(("shape", "group_size"), [((64, 96), 32), ((40, 72), 72), ((72, 40), 16), ((33, 32), 8)])
def test_numbers(bits: int, order: bool, zero_offset: int, shape: tuple[int, int], group_size: int) -> None:
    stored = gptq(shape, bits, group_size, zero_offset=zero_offset, order=order)
    found = weight(stored, Gptq(bits, group_size, zero_offset))
    np.testing.assert_array_equal(found.to_f32(), stored.values)
    assert found.bits < bits + 8


@pytest.mark.parametrize("dtype", ["float16", "bf16", "float32"])
def test_scales_of_every_dtype(dtype: str) -> None:
    stored = gptq((32, 64), 8, 32, dtype=dtype)
    np.testing.assert_array_equal(weight(stored, Gptq(8, 32, 1)).to_f32(), stored.values)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("order", [False, True])
def test_rows_are_views(bits: int, order: bool) -> None:
    stored = gptq((96, 64), bits, 16, order=order)
    whole = weight(stored, Gptq(bits, 16, 1))
    multiple = whole.format.row_multiple
    for start, stop in ((0, 96), (multiple, 96), (32, 32 + multiple), (64, 70)):
        part = whole.rows(start, stop)
        np.testing.assert_array_equal(part.to_f32(), stored.values[start:stop])
        assert np.shares_memory(part.data, whole.data)
        assert np.shares_memory(part.parts["qzeros"], whole.parts["qzeros"])


def test_groups_lie_side_by_side_without_g_idx() -> None:
    stored = gptq((32, 80), 4, 32)
    del stored.tensors["g_idx"]
    np.testing.assert_array_equal(weight(stored, Gptq(4, 32, 1)).to_f32(), stored.values)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_zero_of_zero_comes_back_from_the_borrow_that_stored_it(bits: int) -> None:
    """gptqmodel takes 1 from every field of a word at once, and gives it back so."""
    stored = gptq((32, 32), bits, 32, zero_offset=0)
    ones = np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
    first = np.uint32((1 << bits) - 1)
    words = stored.tensors["qzeros"].view(np.uint32) & ~first  # the first zero of each word is now 0
    stored.tensors["qzeros"] = (words - ones).view(np.int32)
    zeros = Gptq(bits, 32, 1).zeros(stored.tensors["qzeros"], 32)
    np.testing.assert_array_equal(zeros, Gptq(bits, 32, 0).zeros(words.view(np.int32), 32))
    assert (zeros[:, :: 32 // bits] == 0).all()


@pytest.mark.parametrize("sample", ["gptq-3-order", "gptq-4-odd", "gptq-4-row", "gptq-8-v2"])
def test_what_gptqmodel_wrote(sample: str) -> None:
    parts, shape, settings, checksum = recorded(sample)
    size = shape[1] if settings["group_size"] == -1 else settings["group_size"]
    storage = Gptq(settings["bits"], size, 0 if settings["checkpoint_format"] == "gptq_v2" else 1)
    data = parts.pop("qweight")
    assert checksum(Weight(data, shape, storage, sample, parts).to_f32())


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("qweight", np.zeros((8, 31), np.int32)),
        ("qzeros", np.zeros((2, 4), np.int64)),
        ("scales", np.zeros((3, 32), np.float16)),
        ("g_idx", np.zeros(63, np.int32)),
    ],
)
def test_other_arrays_are_refused(part: str, wrong: np.ndarray) -> None:
    stored = gptq((32, 64), 4, 32)
    stored.tensors[part] = wrong
    with pytest.raises(ShapeError, match=rf"layers.0.wq: gptq-4 \[32, 64\]: {part}: expected .*, found {wrong.dtype}"):
        weight(stored, Gptq(4, 32, 1))


def test_missing_parts_and_vectors_are_refused() -> None:
    stored = gptq((32, 64), 4, 32)
    del stored.tensors["scales"]
    with pytest.raises(ShapeError, match=r"scales: expected .*, found none"):
        weight(stored, Gptq(4, 32, 1))
    with pytest.raises(ShapeError, match="expected a matrix"):
        weight(stored, Gptq(4, 32, 1), shape=(32,))


def test_a_group_that_is_not_there_is_refused() -> None:
    stored = gptq((32, 64), 4, 32)
    stored.tensors["g_idx"][5] = 2
    with pytest.raises(FormatError, match="g_idx: expected groups from 0 to 1, found 0 to 2"):
        weight(stored, Gptq(4, 32, 1)).to_f32()
