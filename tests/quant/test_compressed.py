"""compressed-tensors' integers packed bit by bit here, and those that llm-compressor wrote."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.errors import ShapeError
from octuor.quant.compressed import Bytes, Packed
from octuor.weights import Weight
from packed import Stored, as_scales, compressed, times
from quant.recorded import recorded


def weight(stored: Stored, bits: int, group_size: int) -> Weight:
    parts = {name.removeprefix("weight_"): x for name, x in stored.tensors.items()}
    parts["scale"] = parts.pop("scale")
    del parts["shape"]
    return Weight(parts.pop("packed"), stored.values.shape, Packed(bits, group_size), "layers.0.wq", parts)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize(("shape", "group_size"), [((64, 96), 32), ((40, 72), 72), ((33, 40), 8)])
def test_numbers(bits: int, symmetric: bool, order: bool, shape: tuple[int, int], group_size: int) -> None:
    stored = compressed(shape, bits, group_size, symmetric=symmetric, order=order)
    np.testing.assert_array_equal(weight(stored, bits, group_size).to_f32(), stored.values)


def test_an_order_of_minus_ones_is_none() -> None:
    stored = compressed((32, 64), 4, 16)
    stored.tensors["weight_g_idx"] = np.full(64, -1, np.int32)
    np.testing.assert_array_equal(weight(stored, 4, 16).to_f32(), stored.values)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_rows_are_views(bits: int, symmetric: bool) -> None:
    stored = compressed((96, 64), bits, 16, symmetric=symmetric, order=True)
    whole = weight(stored, bits, 16)
    for start, stop in ((0, 96), (32, 64), (64, 70)):
        part = whole.rows(start, stop)
        np.testing.assert_array_equal(part.to_f32(), stored.values[start:stop])
        assert np.shares_memory(part.data, whole.data)


@pytest.mark.parametrize("block_rows", [0, 1])
@pytest.mark.parametrize("has_zeros", [False, True])
def test_bytes(block_rows: int, has_zeros: bool) -> None:
    rng = np.random.default_rng(3)
    codes, grid = rng.integers(-128, 128, (48, 40), np.int8), (48 if block_rows else 1, 1)
    parts = {"scale": as_scales(rng.uniform(0.01, 0.1, grid), "bf16")}
    zeros = np.zeros(grid, np.int8)
    if has_zeros:
        zeros = parts["zero_point"] = rng.integers(-128, 128, grid, np.int8)
    found = Weight(codes, codes.shape, Bytes(block_rows), "layers.0.wq", parts)
    expected = times(codes.astype(int) - zeros, np.broadcast_to(parts["scale"], codes.shape))
    np.testing.assert_array_equal(found.to_f32(), expected)
    np.testing.assert_array_equal(found.rows(5, 9).to_f32(), expected[5:9])


@pytest.mark.parametrize("sample", ["w4-group-32", "w3-channel"])
def test_what_llm_compressor_wrote(sample: str) -> None:
    parts, shape, settings, checksum = recorded(sample)
    (group,) = settings["config_groups"].values()
    size = group["weights"]["group_size"] or shape[1]
    own = {name.removeprefix("weight_"): x for name, x in parts.items() if name != "weight_shape"}
    data = own.pop("packed")
    assert checksum(Weight(data, shape, Packed(group["weights"]["num_bits"], size), sample, own).to_f32())


@pytest.mark.parametrize("part", ["weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx"])
def test_other_arrays_are_refused(part: str) -> None:
    stored = compressed((32, 64), 4, 32, symmetric=False, order=True)
    stored.tensors[part] = stored.tensors[part][1:]
    with pytest.raises(ShapeError, match=rf"layers.0.wq: int4-packed \[32, 64\]: {part}: expected .*, found"):
        weight(stored, 4, 32)


def test_other_bytes_are_refused() -> None:
    codes, scale = np.zeros((4, 8), np.int8), np.ones((4, 1), np.float32)
    for data, parts in ((codes[1:], {"scale": scale}), (codes, {"scale": scale[1:]}), (codes, {})):
        with pytest.raises(ShapeError, match=r"int8 \[4, 8\]: weight.*: expected"):
            Weight(data, (4, 8), Bytes(1), "layers.0.wq", parts)
