"""Blocks: how ggml stores a row of numbers, some tens of bytes for 32, 64, 128 or 256 weights, one after the other.

Shapes: n blocks at work, w weights a block. A row never ends inside a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Format, Parts

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]

AT_ONCE = 1 << 16  # weights decoded at a time: their intermediate arrays stay in the second cache


@dataclass(frozen=True)
class Blocks:
    """A ggml tensor type as a Storage without parts.

    A matrix [out, in] is uint8 [out, row_bytes]; or, where the file has the rows in another order, a view of it
    [..., row_bytes] whose leading axes, read in row order, are the rows of the weight. `contiguous` gives both alike.

    name     "gguf-" and ggml's name in lower case
    ggml     ggml's number of the type
    layout   one block, as ggml-common.h has it
    weights  numbers in a block
    decode   blocks of `layout` [n], into float32 [n, weights]
    plain    the format of ours that has the same bytes; None: there is none
    """

    name: str
    ggml: int
    layout: np.dtype[Any]
    weights: int
    decode: Callable[[Array, F32Array], None]
    plain: Format | None = None

    @property
    def row_multiple(self) -> int:
        """Any row may begin a piece."""
        return 1

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.layout.itemsize

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.block_bytes / self.weights

    def row_bytes(self, inputs: int) -> int:
        """Bytes of a row of `inputs` numbers, which are a multiple of `weights`."""
        return inputs // self.weights * self.block_bytes

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        *rows, inputs = shape
        if inputs % self.weights:
            return f"expected rows of a multiple of {self.weights} weights, found {inputs}"
        row_bytes = self.row_bytes(inputs)
        fits = data.ndim > 0 and data.shape[-1] == row_bytes and prod(data.shape[:-1]) == prod(rows)
        if fits and data.dtype == np.uint8 and not parts:
            return None
        return f"expected uint8 {[*rows, row_bytes]}, found {data.dtype} {list(data.shape)}"

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage; a copy where the file has the rows in another order."""
        if data.ndim == 2:
            return data[start:stop], parts
        return data[np.unravel_index(np.arange(start, stop), data.shape[:-1])], parts

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> F32Array:  # noqa: ARG002
        """As in Storage: bit for bit what llama.cpp's dequantize_row and the gguf package's dequantize give.

        Scales that are not finite give weights that are not.
        """
        blocks = self.contiguous(data, shape).reshape(-1).view(self.layout)
        out = np.empty((blocks.size, self.weights), dtype=np.float32)
        step = max(AT_ONCE // self.weights, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, blocks.size, step):
                self.decode(blocks[start : start + step], out[start : start + step])
        return out.reshape(shape)

    def contiguous(self, data: Array, shape: tuple[int, ...]) -> U8Array:
        """The bytes of each row [..., row_bytes], rows in order; a view unless the file has another order."""
        return np.ascontiguousarray(data).reshape(*shape[:-1], data.shape[-1])


def f32(column: Array) -> F32Array:
    """A field of one number a block [n] as float32 [n, 1, 1], to be multiplied with groups of weights."""
    return column.astype(np.float32)[:, None, None]


def fields(packed: U8Array, bits: int, runs: int) -> U8Array:
    """Numbers of 1, 2 or 4 bits [n, groups, 32] from bytes [n, m], as K types have them.

    runs  the bytes come in runs of this many; a run's lowest bits are as many numbers in a row, then come its next bits
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return ((packed.reshape(len(packed), -1, 1, runs) >> shifts) & np.uint8((1 << bits) - 1)).reshape(
        len(packed), -1, 32
    )


def nibbles(packed: U8Array) -> U8Array:
    """Numbers of 4 bits [n, 2 m] from bytes [n, m]: all lower halves, then all upper ones."""
    n, m = packed.shape
    out = np.empty((n, 2 * m), dtype=np.uint8)
    np.bitwise_and(packed, 15, out=out[:, :m])
    np.right_shift(packed, 4, out=out[:, m:])
    return out


def bits(packed: U8Array) -> U8Array:
    """Numbers of 1 bit [n, 8 m] from bytes [n, m], a byte's lowest bit first."""
    return np.unpackbits(packed, axis=-1, bitorder="little")
