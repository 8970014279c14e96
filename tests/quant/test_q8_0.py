"""Blocks of 32 in packs: llama.cpp's layout, scales that are searched, and what kernels make of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.ops.native import NativeOps, implementations
from octuor.quant import FORMATS, IN_PACKS, Q8, Q8_0, find_format, find_in_packs
from octuor.quant.base import Array
from octuor.quant.gguf import TYPES
from octuor.quant.plain import from_bf16, to_bf16
from octuor.tools.export.gguf import quantize_q8_0
from octuor.weights import Weight
from toys import relative_error

BLOCKS = TYPES[8]


def heavy(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_t(5, shape).astype(np.float32)


def error(x: NDArray[np.float32], data: Array, counts: NDArray[np.float32] | float = 1.0) -> float:
    found = BLOCKS.to_f32(data.reshape(len(x), -1), {}, x.shape).astype(np.float64)
    return float(np.sqrt((np.square(found - x) * counts).mean() / (np.square(x, dtype=np.float64) * counts).mean()))


def test_rows_are_those_of_a_gguf_file() -> None:
    x = heavy(7, 96)
    data = Q8_0.quantize(x)
    assert data.dtype == np.uint8
    assert (data.shape, Q8_0.bits) == ((7, 3, 34), 8.5)
    assert BLOCKS.mismatch(data.reshape(7, -1), {}, x.shape) is None
    np.testing.assert_array_equal(Q8_0.dequantize(data, x.shape), BLOCKS.to_f32(data.reshape(7, -1), {}, x.shape))


def test_a_searched_scale_loses_a_tenth_less_than_the_plain_one() -> None:
    x = heavy(128, 1024)
    plain, searched, longer = (
        error(x, data) for data in (quantize_q8_0(x), Q8_0.quantize(x), Q8_0.quantize(x, thorough=True))
    )
    assert searched**2 < 0.9 * plain**2
    assert longer < searched


def test_heavy_tails_lose_much_less_than_in_q8() -> None:
    x = heavy(128, 1024)
    in_tiles = float(np.sqrt(np.square(Q8.dequantize(Q8.quantize(x), x.shape) - x).mean() / np.square(x).mean()))
    assert error(x, Q8_0.quantize(x)) < 0.65 * in_tiles


def test_the_error_bound_holds_and_is_not_idle() -> None:
    x = np.random.default_rng(0).standard_normal((256, 1024), dtype=np.float32)
    assert Q8_0.error / 2 <= error(x, Q8_0.quantize(x)) <= Q8_0.error


def test_importance_moves_the_error_to_where_it_counts_less() -> None:
    x, counts = heavy(64, 512), np.random.default_rng(1).lognormal(0, 2, 512).astype(np.float32)
    assert error(x, Q8_0.quantize(x, counts), counts) < 0.95 * error(x, Q8_0.quantize(x), counts)


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-7, 1e6, 1e30])
def test_weights_beyond_the_scales_are_as_near_as_can_be(scale: float) -> None:
    x = heavy(2, 64) * np.float32(scale)
    found = Q8_0.dequantize(Q8_0.quantize(x), x.shape)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= np.abs(x) + max(np.abs(x).max() / 240, 1e-7)).all()  # half a step more, if that
    assert (np.sign(found) * np.sign(x) >= 0).all()


def test_what_is_refused() -> None:
    with pytest.raises(FormatError, match="expected a multiple of 32 inputs, found 40; use q8"):
        Q8_0.quantize(heavy(2, 40))
    with pytest.raises(FormatError, match="expected finite weights, found another in row 1"):
        Q8_0.quantize(np.array([[0.0] * 32, [np.nan] * 32], dtype=np.float32))
    with pytest.raises(FormatError, match="importance: expected one number for each of 32 inputs"):
        Q8_0.quantize(heavy(2, 32), np.ones(31, dtype=np.float32))


def test_it_is_chosen_in_packs_only() -> None:
    assert set(IN_PACKS) - set(FORMATS) == {Q8_0.name}
    assert find_in_packs("gguf-q8_0") is Q8_0
    with pytest.raises(FormatError, match="found 'gguf-q8_0'"):
        find_format("gguf-q8_0")
    assert [Q8_0.takes(shape) for shape in ((3, 64), (3, 40), (64,))] == [True, False, False]


@pytest.mark.parametrize("isa", implementations())
def test_kernels_run_it_as_it_lies(isa: str) -> None:
    ops, w, x = NativeOps(isa, threads=2), heavy(72, 512), heavy(5, 512, seed=1)
    data = ops.quantize(w, Q8_0)
    np.testing.assert_array_equal(ops.quantize(to_bf16(w), Q8_0), Q8_0.quantize(from_bf16(to_bf16(w))))
    weight = Weight(data, w.shape, Q8_0)
    np.testing.assert_array_equal(ops.dequantize(weight), weight.to_f32())
    assert relative_error(ops.linear(x, ops.put(weight)), x @ weight.to_f32().T) < 0.02  # inputs are rounded to int8
