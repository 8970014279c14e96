"""llama.cpp's Q8_0 as a format of packs, for weights with heavy tails: a scale for 32 inputs, where q8 has one for 256.

    weight = d[row, 32 inputs] * q      d float16, q int8

Storage [out, in / 32, 34] uint8: of each block the bytes of d, then its codes, so that a row is what a GGUF file has.
Only `octuor pack` writes it, where 8.5 bits are there to be spent: it takes half a bit more than q8, and its sums are
integers over 32 inputs only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.machine import read_machine
from octuor.quant.base import Array, Format, relative_importance
from octuor.quant.gguf import TYPES
from octuor.quant.int8_exact import reciprocal

INPUTS, BYTES = 32, 34
BLOCKS = TYPES[8]
# Codes that the largest weight's scale may be for. Among a few, one is found that most weights of a block lie near to:
# of 8, the squared error is 14 % less than with 127, of 4 11 %, of 32 19 %.
FIRST, LAST = 128.4, 122.0
TRIED, TRIED_THOROUGHLY = 8, 32
MOST = np.float32(
    np.finfo(np.float16).max
)  # of a scale; larger weights are cut, and choosing formats sees what it costs
AT_ONCE = 4096  # blocks: their floats stay in the second cache


def _quantize(
    x: NDArray[np.float32], importance: NDArray[np.float32] | None = None, *, thorough: bool = False
) -> Array:
    """As in Quantizer; d is negative where a block's largest weight is above zero: -128 reaches farther than 127."""
    out, inputs = x.shape
    if inputs % INPUTS:
        raise FormatError(f"{BLOCKS.name}: expected a multiple of {INPUTS} inputs, found {inputs}; use q8")
    if not (finite := np.isfinite(x)).all():
        row = int(np.argwhere(~finite)[0, 0])
        raise FormatError(f"quantize: expected finite weights, found another in row {row}; is the checkpoint damaged?")
    counts = None if importance is None else relative_importance(importance, inputs).reshape(-1, INPUTS)
    blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, INPUTS)
    reaches = np.linspace(FIRST, LAST, TRIED_THOROUGHLY if thorough else TRIED, dtype=np.float32)
    found = np.empty((len(blocks), BYTES), dtype=np.uint8)

    def work(start: int) -> None:
        stop = min(start + AT_ONCE, len(blocks))
        own = None if counts is None else counts[np.arange(start, stop) % len(counts)]
        d, codes = _search(blocks[start:stop], own, reaches)
        found[start:stop, :2] = d[:, None].view(np.uint8)
        found[start:stop, 2:] = codes.view(np.uint8)

    with ThreadPoolExecutor(read_machine().threads) as pool:
        list(pool.map(work, range(0, len(blocks), AT_ONCE)))
    return found.reshape(out, inputs // INPUTS, BYTES)


def _search(
    blocks: NDArray[np.float32], counts: NDArray[np.float32] | None, reaches: NDArray[np.float32]
) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """d [n] and codes [n, 32] of the least error of those that `reaches` give blocks [n, 32]."""
    n = len(blocks)
    farthest = -blocks[np.arange(n), np.abs(blocks).argmax(axis=1)]
    best, codes = np.zeros(n, dtype=np.float16), np.zeros((n, INPUTS), dtype=np.float32)
    least = np.full(n, np.inf, dtype=np.float32)
    for reach in reaches:
        half = (farthest / reach).clip(-MOST, MOST).astype(np.float16)
        d = half.astype(np.float32)[:, None]
        tried = np.rint(blocks * reciprocal(d)).clip(-128, 127)
        with np.errstate(over="ignore"):
            squares = np.square(blocks - tried * d)
            error = (squares if counts is None else squares * counts).sum(axis=1)
        better = ~(error >= least)  # the first in any case, infinite as its error may be
        best[better], codes[better], least[better] = half[better], tried[better], error[better]
    return best, codes.astype(np.int8)


def _dequantize(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return BLOCKS.to_f32(data.reshape(shape[0], -1), {}, shape)


Q8_0 = Format(BLOCKS.name, np.dtype(np.uint8), "U8", 0.006, _quantize, _dequantize, 1, INPUTS, BYTES)
