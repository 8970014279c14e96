"""Error feedback lowers what it is said to lower, and survives what calibration can bring."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from definitions import random
from octuor.errors import FormatError
from octuor.ops.native import NativeOps, implementations
from octuor.quant import BF16, FORMATS, Format
from octuor.quant.feedback import quantize_with_feedback, round_block

TILED = [row for row in FORMATS.values() if row.is_tiled]
EACH_TILED = pytest.mark.parametrize("row", TILED, ids=lambda row: row.name)
INPUTS = 300  # a tile and a part of one


def activations(n: int) -> NDArray[np.float32]:
    """[n, INPUTS] of which many say the same, some are large and one is dead."""
    x = random(n, 40) @ random(40, INPUTS) + random(n, INPUTS, seed=1) * np.exp(random(INPUTS, seed=2))
    x[:, 17] = 0
    return x.astype(np.float32)


def loss(row: Format, data: NDArray[np.uint8], x: NDArray[np.float32], hessian: NDArray[np.float64]) -> float:
    error = x - row.dequantize(data, x.shape).astype(np.float64)
    return float(np.einsum("oi,ij,oj->", error, hessian, error))


@EACH_TILED
def test_feedback_loses_less_and_kernels_do_as_the_definition_says(row: Format) -> None:
    seen, x, ops = activations(2000).astype(np.float64), random(70, INPUTS), NativeOps(threads=2)
    hessian = seen.T @ seen
    weighted = loss(row, ops.quantize(x, row, np.diag(hessian).astype(np.float32)), x, hessian)
    expected = loss(row, quantize_with_feedback(x, row, hessian, round_block), x, hessian)
    assert expected < 0.3 * weighted
    for isa in implementations():
        native = NativeOps(isa, threads=2).round_block
        found = loss(row, quantize_with_feedback(x, row, hessian, native), x, hessian)
        # Where two codes are a rounding apart either may be chosen, and all that follows then differs.
        assert abs(found - expected) < 0.05 * expected, isa


@EACH_TILED
def test_blocks_of_a_hessian_are_between_all_of_it_and_none(row: Format) -> None:
    seen, x, native = activations(2000).astype(np.float64), random(70, INPUTS), NativeOps(threads=2).round_block
    hessian = seen.T @ seen
    blocks = np.zeros((2, 256, 256))
    blocks[0], blocks[1, :44, :44] = hessian[:256, :256], hessian[256:, 256:]
    losses = [
        loss(row, quantize_with_feedback(x, row, h, native), x, hessian)
        for h in (hessian, blocks, np.diag(np.diag(hessian)))
    ]
    assert losses == sorted(losses)


@EACH_TILED
def test_hessians_that_say_little_do_no_harm(row: Format) -> None:
    x, native = random(70, INPUTS), NativeOps(threads=2).round_block
    one_token = np.outer(activations(1), activations(1))
    plain = np.square(row.dequantize(row.quantize(x), x.shape) - x).mean()
    for hessian in (np.zeros((INPUTS, INPUTS)), one_token * 1e-30, one_token * 1e30, -np.eye(INPUTS) * 1e-9):
        data = quantize_with_feedback(x, row, hessian, native)
        assert np.square(row.dequantize(data, x.shape) - x).mean() < 2 * plain
        padded = row.dequantize(data, (128, 512))
        assert not padded[70:].any()
        assert not padded[:, 304:].any()  # whole groups: q2 has no code for 0


def test_feedback_refuses_what_it_cannot_use() -> None:
    x, row = random(4, 8), FORMATS["q4"]
    for shape in ((8, 7), (7, 7), (1, 8, 8), (2, 256, 256)):
        with pytest.raises(FormatError, match=r"expected \[8, 8\]"):
            quantize_with_feedback(x, row, np.ones(shape), round_block)
    with pytest.raises(FormatError, match="inputs 0 to 7"):
        quantize_with_feedback(x, row, np.full((8, 8), np.nan), round_block)
    with pytest.raises(FormatError, match="found a matrix that is none"):
        quantize_with_feedback(x, row, np.diag([1e9, -1e9, 1, 1, 1, 1, 1, 1]), round_block)
    with pytest.raises(FormatError, match="expected a tiled format"):
        quantize_with_feedback(x, BF16, np.eye(8), round_block)
    x[2, 5] = np.inf
    with pytest.raises(FormatError, match="row 2"):
        quantize_with_feedback(x, row, np.eye(8), round_block)
