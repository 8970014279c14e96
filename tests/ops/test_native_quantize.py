"""Quantizing by every native implementation against the definition in quant/."""

from __future__ import annotations

import numpy as np
import pytest

from definitions import random
from octuor.errors import FormatError
from octuor.ops.native import (
    NativeOps,
    implementations,
    quantizer,
)
from octuor.quant import BF16, F16, FORMATS, Q4, Format

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
