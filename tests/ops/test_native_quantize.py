"""Quantizing by every native implementation against the definition in quant/."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from definitions import random
from octuor.errors import FormatError
from octuor.ops.native import (
    NativeOps,
    implementations,
    quantizer,
)
from octuor.quant import BF16, F16, FORMATS, Q4, Q6, Q8, Format

ALL = pytest.mark.parametrize("isa", implementations())
TILED = [row for row in FORMATS.values() if row.is_tiled]
EACH_TILED = pytest.mark.parametrize("row", TILED, ids=lambda row: row.name)
FAR_SCALES = 1.002  # the definition tries every scale of a group, the kernels those near the ideal one


@ALL
@EACH_TILED
@pytest.mark.parametrize("shape", [(1, 1), (64, 256), (65, 300), (130, 700)], ids=str)
def test_quantize_is_at_least_as_near_as_the_definition(isa: str, row: Format, shape: tuple[int, int]) -> None:
    x = random(*shape)
    ops = NativeOps(isa, threads=2)
    errors = [np.square(row.dequantize(data, shape) - x).mean() for data in (ops.quantize(x, row), row.quantize(x))]
    assert errors[0] <= errors[1] * FAR_SCALES


@ALL
@EACH_TILED
def test_every_implementation_quantizes_alike(isa: str, row: Format) -> None:
    x = random(70, 600)
    found, expected = (row.dequantize(NativeOps(name, 1).quantize(x, row), x.shape) for name in (isa, "scalar"))
    # Two candidates may be within a rounding of each other, and then either may be chosen.
    assert np.square(found - expected).mean() < 1e-4 * np.square(expected - x).mean()


@EACH_TILED
def test_quantize_edges(row: Format) -> None:
    ops = NativeOps(threads=2)
    assert not row.dequantize(ops.quantize(np.zeros((3, 300), np.float32), row), (3, 300)).any()
    padded = row.dequantize(ops.quantize(random(3, 272), row), (64, 512))
    assert not padded[3:].any()
    assert not padded[:, 272:].any()
    for scale in (np.float32(1e-15), np.float32(1e15)):
        x = random(64, 256) * scale
        error = row.dequantize(ops.quantize(x, row), x.shape).astype(np.float64) - x
        assert np.sqrt(np.square(error).mean()) < row.error * scale
    assert np.isfinite(row.dequantize(ops.quantize(np.full((2, 2), 1e-42, np.float32), row), (2, 2))).all()


@EACH_TILED
def test_quantize_takes_halves_as_they_are_stored(row: Format) -> None:
    quantize = quantizer(threads=1)
    for plain in (F16, BF16):
        data = plain.quantize(random(65, 300))
        widened = plain.dequantize(data, (65, 300))
        np.testing.assert_array_equal(quantize(data, row), quantize(widened, row))


def test_quantize_to_a_plain_format() -> None:
    x = random(3, 5)
    np.testing.assert_array_equal(quantizer(1)(x, BF16), BF16.quantize(x))


@ALL
@EACH_TILED
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_refuses_numbers_that_are_not_finite(isa: str, row: Format, bad: float) -> None:
    x = random(200, 300)
    x[150, 299] = x[199, 0] = bad
    with pytest.raises(FormatError, match="row 150"):
        NativeOps(isa, threads=2).quantize(x, row)


def test_quantize_refuses_other_arrays() -> None:
    with pytest.raises(FormatError, match="found float64"):
        NativeOps(threads=1).quantize(np.zeros((2, 2)), Q4)
    with pytest.raises(TypeError):
        NativeOps(threads=1).quantize(random(4, 8)[:, ::2], Q4)


def importance_of(inputs: int, seed: int = 0) -> NDArray[np.float32]:
    """Log-normal, as mean squares of activations are, some inputs never used."""
    drawn = np.exp(random(inputs, seed=seed + 1) * np.float32(1.5))
    drawn[random(inputs, seed=seed + 2) > 1.5] = 0
    return drawn


def weighted_error(
    row: Format, data: NDArray[np.uint8], x: NDArray[np.float32], importance: NDArray[np.float32]
) -> float:
    return float((importance * np.square(row.dequantize(data, x.shape) - x)).sum(dtype=np.float64))


@ALL
@EACH_TILED
@pytest.mark.parametrize("thorough", [False, True])
def test_a_weighted_search_is_at_least_as_near_as_the_definition(isa: str, row: Format, thorough: bool) -> None:
    x, importance = random(65, 300), importance_of(300)
    found = NativeOps(isa, threads=2).quantize(x, row, importance, thorough=thorough)
    expected = row.quantize(x, importance, thorough=thorough)
    errors = [weighted_error(row, data, x, importance) for data in (found, expected)]
    assert errors[0] <= errors[1] * FAR_SCALES


@ALL
@pytest.mark.parametrize("row", [row for row in TILED if row != Q8], ids=lambda row: row.name)
def test_a_search_gains_what_it_is_asked_for(isa: str, row: Format) -> None:
    x, importance, ops = random(128, 512), importance_of(512), NativeOps(isa, threads=2)
    chosen = [ops.quantize(x, row), ops.quantize(x, row, importance), ops.quantize(x, row, importance, thorough=True)]
    plain, weighted, thorough = (weighted_error(row, data, x, importance) for data in chosen)
    assert thorough < weighted < plain
    if row != Q6:  # whose scales have hardly a choice
        assert weighted < 0.8 * plain
    ones = np.ones_like(importance)
    errors = [weighted_error(row, ops.quantize(x, row, thorough=longer), x, ones) for longer in (True, False)]
    assert errors[0] <= errors[1]


@ALL
@EACH_TILED
def test_importance_that_says_nothing(isa: str, row: Format) -> None:
    x, ops = random(65, 300), NativeOps(isa, threads=2)
    chosen = [ops.quantize(x, row, np.full(300, level, np.float32)) for level in (0, 1, 1e30)]
    for data in chosen[1:]:
        np.testing.assert_array_equal(data, chosen[0])
    ones = np.ones(300, np.float32)
    assert weighted_error(row, chosen[0], x, ones) <= weighted_error(row, ops.quantize(x, row), x, ones)
    padded = row.dequantize(ops.quantize(x, row, importance_of(300), thorough=True), (128, 512))
    assert not padded[65:].any()
    assert not padded[:, 304:].any()  # whole groups: q2 has no code for 0


@pytest.mark.parametrize("quantize", [lambda x, i: NativeOps(threads=1).quantize(x, Q4, i), Q4.quantize, Q8.quantize])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_importance_has_to_be_a_finite_weight_for_each_input(quantize: Callable[..., object], bad: float) -> None:
    importance = np.ones(8, np.float32)
    with pytest.raises(FormatError, match="each of 8 inputs"):
        quantize(random(4, 8), importance[:-1])
    importance[5] = bad
    with pytest.raises(FormatError, match="for input 5"):
        quantize(random(4, 8), importance)
