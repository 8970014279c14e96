"""FP8 weights as newer repositories ship them: float8 e4m3 times a scale for a row, a block or the whole matrix.

weight[o, i] = f8[o, i] * scale[block of o, i], rounded to the scale's number format (float32 as a rule), as
compressed-tensors' and transformers' dequantizers do (the result is bit for bit the same).

    weight   [out, in] float8_e4m3fn, as bits: 1 sign, 4 exponent (bias 7), 3 mantissa; no infinity, 0x7f and 0xff NaN
    scale    [ceil(out / rows), ceil(in / inputs)] of blocks
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.packing import SCALES, F32Array, scale_blocks, wrong_array

U8 = np.dtype(np.uint8)


def _e4m3() -> F32Array:
    """The value of every code."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7).astype(np.float64)
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    values = np.where(code & 128, -size, size)
    values[code & 127 == 127] = np.nan
    return values.astype(np.float32)


E4M3 = _e4m3()


@dataclass(frozen=True)
class Fp8:
    """A matrix of float8 e4m3: data is uint8 [out, in], part scale [rows of blocks, columns of blocks].

    block_rows    rows that share a scale, as 128 in blocks or 1 for a scale a row; 0: all of them
    block_inputs  inputs that share a scale; 0: all of them
    """

    block_rows: int
    block_inputs: int

    @property
    def name(self) -> str:
        """As in Storage."""
        return "f8_e4m3"

    @property
    def row_multiple(self) -> int:
        """As in Storage."""
        return max(self.block_rows, 1)

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if len(shape) != 2:
            return f"expected a matrix, found {len(shape)} axes"
        return wrong_array("weight", data, [U8], shape) or wrong_array(
            "scale", parts.get("scale"), SCALES, grid(shape, self.block_rows, self.block_inputs)
        )

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage."""
        return data[start:stop], rows_of_blocks(parts, self.block_rows, start, stop)

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As in Storage."""
        block = self.block_rows or shape[0], self.block_inputs or shape[1]
        return scale_blocks(E4M3[data], parts["scale"], block)


def grid(shape: tuple[int, ...], block_rows: int, block_inputs: int) -> tuple[int, int]:
    """Rows and columns of blocks in a matrix; a block of 0 is all of its axis."""
    return (
        ceil_div(shape[0], block_rows) if block_rows else 1,
        ceil_div(shape[1], block_inputs) if block_inputs else 1,
    )


def rows_of_blocks(parts: Parts, block_rows: int, start: int, stop: int) -> Parts:
    """The parts of rows start to stop, each part having a row for each block of rows."""
    if not block_rows:
        return parts
    return {name: part[start // block_rows : ceil_div(stop, block_rows)] for name, part in parts.items()}
