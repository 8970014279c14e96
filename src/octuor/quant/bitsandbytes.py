"""bitsandbytes' 4-bit blocks (nf4, fp4) and int8 rows (LLM.int8), as its CPU backend reads them.

4 bits: the weights of a matrix [out, in] lie flat, two a byte, the first in the high nibble. A nibble indexes a table
of 16 numbers, and each block of 32 to 4096 weights in flat order has one absmax; blocks do not end where rows do:

    weight = round(quant_map[nibble] * absmax[flat // block_size])      rounded to the dtype that was quantized

Double quantized, absmax holds bytes, 256 of them to one nested absmax:

    absmax = nested_quant_map[byte] * nested_absmax[block // 256] + nested_offset

int8: weight = byte * SCB[row] / 127, where 1 / 127 is bitsandbytes' own float32 constant.

Source: bitsandbytes 0.50, functional.py and backends/{default,cpu}/ops.py. Where `in` is no multiple of the block, its
AVX-512 kernels (0.50.2) count blocks from each row's start; the flat order here is that of its quantizer and of its
CUDA and torch kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.plain import rounded

QUANT_TYPES = ("nf4", "fp4")
INT8_STEP = np.float32(7.874015718698502e-3)


@dataclass(frozen=True)
class BitsAndBytes4:
    """Blocks of 4-bit codes: data uint8 [out, in / 2].

    block_size         weights that share an absmax
    dtype              "f32", "f16" or "bf16", what the numbers are rounded to
    nested_block_size  absmaxes that share a nested absmax; None: absmax is stored as float32

    Parts: quant_map float32 [16], absmax [blocks] float32, or uint8 and beside it nested_absmax float32 [nested
    blocks], nested_quant_map float32 [256], nested_offset float32 [1]. Rows that begin inside a block have `skip` too,
    int64 [2]: weights of the first block and absmaxes of the first nested block that belong to rows before.
    """

    name: str
    block_size: int
    dtype: str
    nested_block_size: int | None = None

    @property
    def row_multiple(self) -> int:
        """As in Storage."""
        return 1

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if len(shape) != 2 or shape[1] % 2:
            return f"expected a matrix of even inputs, found {list(shape)}"
        if data.shape != (shape[0], shape[1] // 2) or data.dtype != np.uint8:
            return f"expected uint8 {[shape[0], shape[1] // 2]}, found {data.dtype} {list(data.shape)}"
        weights, absmaxes = self._skip(parts)
        blocks = ceil_div(weights + shape[0] * shape[1], self.block_size)
        wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]]
        wanted = {"quant_map": (np.float32, (16,)), "absmax": (np.float32, (blocks,))}
        if self.nested_block_size is not None:
            wanted["absmax"] = (np.uint8, (blocks,))
            wanted["nested_absmax"] = (np.float32, (ceil_div(absmaxes + blocks, self.nested_block_size),))
            wanted["nested_quant_map"] = (np.float32, (256,))
            wanted["nested_offset"] = (np.float32, (1,))
        for name, (dtype, lengths) in wanted.items():
            part = parts.get(name)
            if part is None or part.dtype != dtype or part.shape != lengths:
                found = "none" if part is None else f"{part.dtype} {list(part.shape)}"
                return f"expected {name} {np.dtype(dtype)} {list(lengths)}, found {found}"
        return None

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage; views."""
        weights, absmaxes = self._skip(parts)
        inputs = 2 * data.shape[1]
        block, skipped_weights = divmod(weights + start * inputs, self.block_size)
        end = ceil_div(weights + stop * inputs, self.block_size)
        cut = dict(parts) | {"absmax": parts["absmax"][block:end]}
        skipped_absmaxes = 0
        if self.nested_block_size is not None:
            nested, skipped_absmaxes = divmod(absmaxes + block, self.nested_block_size)
            nested_end = ceil_div(absmaxes + end, self.nested_block_size)
            cut["nested_absmax"] = parts["nested_absmax"][nested:nested_end]
        cut.pop("skip", None)
        if skipped_weights or skipped_absmaxes:
            cut["skip"] = np.array([skipped_weights, skipped_absmaxes])
        return data[start:stop], cut

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As in Storage: bitsandbytes.functional.dequantize_4bit, bit for bit."""
        quant_map = parts["quant_map"]
        pairs = np.empty((256, 2), dtype=np.float32)  # both numbers of a byte
        pairs[:, 0], pairs[:, 1] = np.repeat(quant_map, 16), np.tile(quant_map, 16)
        numbers = pairs.view(np.uint64)[data.reshape(-1), 0].view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are looked for by who reads them
            self._scale(numbers, self._absmax(parts), self._skip(parts)[0])
            return rounded(numbers, self.dtype).reshape(shape)

    def _scale(self, numbers: NDArray[np.float32], absmax: NDArray[np.float32], skipped: int) -> None:
        """Multiply numbers by their blocks' absmaxes in place; the first block lacks `skipped` weights."""
        head = min(-skipped % self.block_size, numbers.size)
        if head:
            numbers[:head] *= absmax[0]
            absmax = absmax[1:]
        whole = (numbers.size - head) // self.block_size
        end = head + whole * self.block_size
        numbers[head:end].reshape(whole, self.block_size)[...] *= absmax[:whole, None]
        if end < numbers.size:
            numbers[end:] *= absmax[whole]

    def _absmax(self, parts: Parts) -> NDArray[np.float32]:
        """float32 [blocks]."""
        stored = parts["absmax"]
        if self.nested_block_size is None:
            return np.asarray(stored, dtype=np.float32)
        block = (np.arange(stored.size) + self._skip(parts)[1]) // self.nested_block_size
        absmax: NDArray[np.float32] = parts["nested_quant_map"][stored] * parts["nested_absmax"][block]
        return absmax + parts["nested_offset"]

    @staticmethod
    def _skip(parts: Parts) -> tuple[int, int]:
        """Weights of the first block, and absmaxes of the first nested block, that belong to rows before."""
        weights, absmaxes = parts.get("skip", (0, 0))
        return int(weights), int(absmaxes)


@dataclass(frozen=True)
class BitsAndBytes8:
    """Rows of int8 with a scale each: data int8 [out, in], part SCB float32 [out], the rows' largest magnitudes."""

    name: str = "bnb-int8"

    @property
    def row_multiple(self) -> int:
        """As in Storage."""
        return 1

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if data.shape != shape or len(shape) != 2 or data.dtype != np.int8:
            return f"expected int8 {list(shape)}, found {data.dtype} {list(data.shape)}"
        scales = parts.get("SCB")
        if scales is None or scales.dtype != np.float32 or scales.shape != shape[:1]:
            found = "none" if scales is None else f"{scales.dtype} {list(scales.shape)}"
            return f"expected SCB float32 {[shape[0]]}, found {found}"
        return None

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage; views."""
        return data[start:stop], {"SCB": parts["SCB"][start:stop]}

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As in Storage: bitsandbytes.functional.int8_vectorwise_dequant, bit for bit."""
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = data.astype(np.float32) * parts["SCB"][:, None]
            numbers *= INT8_STEP
        return numbers.reshape(shape)
