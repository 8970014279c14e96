"""The contract that every number format keeps, the layout of q8, and the rounding of activations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant import BF16, F16, FORMATS, Q8, Format, find_format
from octuor.quant.int8_exact import INPUTS, ROWS, quantize_activations
from octuor.quant.plain import from_bf16, to_bf16

EACH = pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
TILED = pytest.mark.parametrize("row", [row for row in FORMATS.values() if row.is_tiled], ids=lambda row: row.name)
SHAPES = ((1, 1), (64, 256), (63, 255), (65, 257), (130, 600))


def gaussian(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative_rms(row: Format, x: NDArray[np.float32]) -> float:
    error = row.dequantize(row.quantize(x), x.shape).astype(np.float64) - x
    return float(np.sqrt(np.square(error).mean() / np.square(x.astype(np.float64)).mean()))


@EACH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_storage_is_as_announced(row: Format, shape: tuple[int, int]) -> None:
    data = row.quantize(gaussian(*shape))
    assert data.shape == row.storage_shape(shape)
    assert data.dtype == row.dtype
    assert data.nbytes == row.n_bytes(shape)
    found = row.dequantize(data, shape)
    assert found.shape == shape
    assert found.dtype == np.float32


@EACH
def test_bits_a_weight(row: Format) -> None:
    shape = (2 * ROWS, 3 * INPUTS)
    assert row.n_bytes(shape) * 8 == row.bits * shape[0] * shape[1]


@EACH
def test_error_of_gaussian_weights_is_within_its_bound(row: Format) -> None:
    assert relative_rms(row, gaussian(256, 1024)) <= row.error


@TILED
def test_the_error_bound_is_not_idle(row: Format) -> None:
    assert relative_rms(row, gaussian(256, 1024)) >= row.error / 2


@TILED
@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e15])
def test_the_error_is_relative(row: Format, scale: float) -> None:
    assert relative_rms(row, gaussian(64, 512) * np.float32(scale)) <= row.error


@EACH
def test_zeros_stay_zeros(row: Format) -> None:
    assert not row.dequantize(row.quantize(np.zeros((70, 300), np.float32)), (70, 300)).any()


@TILED
def test_weights_too_small_for_a_scale_become_zero_or_stay(row: Format) -> None:
    found = row.dequantize(row.quantize(np.full((1, 3), 1e-42, np.float32)), (1, 3))
    assert (np.abs(found) <= 1e-40).all()


@TILED
def test_padding_is_zero(row: Format) -> None:
    """Beyond the group of 16 that holds the last input, for not every book of codes has a zero."""
    data = row.quantize(gaussian(65, 272))
    full = row.dequantize(data, (2 * ROWS, 2 * INPUTS))
    assert full[:65, :272].any()
    assert not full[65:].any()
    assert not full[:, 272:].any()


@TILED
def test_blocks_of_64_rows_are_stored_apart(row: Format) -> None:
    x = gaussian(150, 300)
    apart = np.concatenate([row.quantize(x[:64]), row.quantize(x[64:128]), row.quantize(x[128:])])
    np.testing.assert_array_equal(apart, row.quantize(x))


@TILED
def test_an_outlier_is_kept_and_spoils_only_its_own_256_inputs(row: Format) -> None:
    x = gaussian(64, 512)
    calm = row.dequantize(row.quantize(x), x.shape)
    x[5, 7] = 100
    found = row.dequantize(row.quantize(x), x.shape)
    assert abs(found[5, 7] - 100) < 400 * row.error**2 + 4
    elsewhere = np.ones(x.shape, bool)
    elsewhere[5, :256] = False
    np.testing.assert_array_equal(found[elsewhere], calm[elsewhere])


@TILED
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(row: Format, bad: float) -> None:
    x = gaussian(70, 300)
    x[66, 2] = bad
    with pytest.raises(FormatError, match="row 66"):
        row.quantize(x)


def test_find_format() -> None:
    assert all(find_format(name) is row for name, row in FORMATS.items())
    with pytest.raises(FormatError, match=r"expected one of f32, f16, bf16, q8, q6, q5, q4, q3, q2; found 'q7'"):
        find_format("q7")


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even() -> None:
    step = 2.0**-7  # of bfloat16 at 1
    x = np.array([1 + 0.4 * step, 1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.6 * step, 3e38, 0], np.float32)
    found = from_bf16(to_bf16(x))
    np.testing.assert_array_equal(found[[0, 1, 2, 3, 5]], np.array([1, 1, 1 + 2 * step, -1 - step, 0], np.float32))
    assert found[4] == pytest.approx(3e38, rel=2.0**-8)
    assert np.isnan(from_bf16(to_bf16(np.array([np.nan], np.float32)))).all()
    np.testing.assert_array_equal(from_bf16(to_bf16(np.array([np.inf, -np.inf], np.float32))), [np.inf, -np.inf])


@pytest.mark.parametrize("row", [F16, BF16], ids=["f16", "bf16"])
def test_plain_formats_keep_what_they_can_hold(row: Format) -> None:
    kept = row.dequantize(row.quantize(gaussian(5, 7)), (5, 7))
    np.testing.assert_array_equal(row.dequantize(row.quantize(kept), (5, 7)), kept)


def test_where_a_q8_weight_lies() -> None:
    row, place = 37, 201
    x = np.zeros((ROWS, INPUTS), np.float32)
    x[row, place] = -127
    data = Q8.quantize(x)[0, 0]
    assert data[2 * row : 2 * row + 2].view(np.uint16)[0] == 0x3F80
    codes = data[128:].view(np.int8).reshape(4, 64, 16, 4)
    assert codes[2, 50, 5, 1] == -127
    assert np.count_nonzero(codes) == 1


def test_quantize_activations() -> None:
    x = gaussian(3, 300) * np.array([[1], [1000], [0]], np.float32)
    codes, scales = quantize_activations(x)
    assert codes.shape == (3, 512)
    assert codes.dtype == np.int8
    assert scales.shape == (3, 2)
    assert scales.dtype == np.float32
    assert np.abs(codes[:2]).reshape(2, 2, 256).max(-1).min() == 127
    assert not codes[:, 300:].any()
    assert not codes[2].any()
    widened = (codes.reshape(3, 2, 256) * scales[..., None]).reshape(3, 512)[:, :300]
    assert (np.abs(widened - x) <= np.repeat(scales, 256, axis=1)[:, :300] * 0.50001).all()


def test_quantize_activations_of_no_tokens() -> None:
    codes, scales = quantize_activations(np.zeros((0, 300), np.float32))
    assert (codes.shape, scales.shape) == ((0, 512), (0, 2))
