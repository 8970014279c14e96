"""compressed-tensors' integers: codes of 1 to 8 bits packed into words (w4a16, w8a16), or one byte each (w8a8).

weight[o, i] = (code[o, i] - zero[o, g]) * scale[o, g], rounded to the scale's number format, as compressed_tensors'
PackedQuantizationCompressor and IntQuantizationCompressor do (the result is bit for bit the same).

packed      weight_packed      int32 [out, in * bits / 32]: code + 2^(bits - 1), one stream of bits a row, lowest first
            weight_scale       [out, G] bfloat16, float16 or float32
            weight_zero_point  int32 [out * bits / 32, G], packed likewise along the outputs; none where symmetric
            weight_g_idx       int32 [in]: the group of each input; -1 among them: they lie side by side
bytes       weight             int8 [out, in]
            weight_scale       [out, 1] or [1, 1]
            weight_zero_point  int8, of the scale's shape; none where symmetric
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.fp8 import grid, rows_of_blocks
from octuor.quant.packing import I32, SCALES, F32Array, scale_blocks, scale_groups, unpack_bits, wrong_array

I8 = np.dtype(np.int8)


@dataclass(frozen=True)
class Packed:
    """A matrix of packed integers: data is weight_packed, parts are scale and, where there, zero_point and g_idx.

    bits        of a code, 1 to 8
    group_size  inputs that share a scale; at least 1
    """

    bits: int
    group_size: int

    @property
    def name(self) -> str:
        """As in Storage."""
        return f"int{self.bits}-packed"

    @property
    def row_multiple(self) -> int:
        """As in Storage: whole words of zeros."""
        return 32 // gcd(32, self.bits)

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if len(shape) != 2:
            return f"expected a matrix, found {len(shape)} axes"
        out, inputs = shape
        n_groups, zeros, groups = ceil_div(inputs, self.group_size), parts.get("zero_point"), parts.get("g_idx")
        return (
            wrong_array("weight_packed", data, [I32], (out, ceil_div(inputs * self.bits, 32)))
            or wrong_array("weight_scale", parts.get("scale"), SCALES, (out, n_groups))
            or (
                wrong_array("weight_zero_point", zeros, [I32], (ceil_div(out * self.bits, 32), n_groups))
                if zeros is not None
                else None
            )
            or (wrong_array("weight_g_idx", groups, [I32], (inputs,)) if groups is not None else None)
        )

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage."""
        cut = {**parts, "scale": parts["scale"][start:stop]}
        if "zero_point" in parts:
            cut["zero_point"] = parts["zero_point"][start * self.bits // 32 : ceil_div(stop * self.bits, 32)]
        return data[start:stop], cut

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> F32Array:
        """As in Storage."""
        half = np.int16(1 << (self.bits - 1))
        zeros, groups = parts.get("zero_point"), parts.get("g_idx")
        if groups is not None and (groups == -1).any():
            groups = None
        middle = np.full((1, 1), half) if zeros is None else unpack_bits(zeros.T, self.bits, shape[0]).T
        spread = np.broadcast_to(middle, parts["scale"].shape)
        return scale_groups(unpack_bits(data, self.bits, shape[1]), spread, parts["scale"], self.group_size, groups)


@dataclass(frozen=True)
class Bytes:
    """A matrix of int8: data is weight, parts are scale and, where there, zero_point.

    block_rows  rows that share a scale: 1, or 0 for all of them
    """

    block_rows: int

    @property
    def name(self) -> str:
        """As in Storage."""
        return "int8"

    @property
    def row_multiple(self) -> int:
        """As in Storage."""
        return 1

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if len(shape) != 2:
            return f"expected a matrix, found {len(shape)} axes"
        blocks, zeros = grid(shape, self.block_rows, 0), parts.get("zero_point")
        return (
            wrong_array("weight", data, [I8], shape)
            or wrong_array("weight_scale", parts.get("scale"), SCALES, blocks)
            or (wrong_array("weight_zero_point", zeros, [I8], blocks) if zeros is not None else None)
        )

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage."""
        return data[start:stop], rows_of_blocks(parts, self.block_rows, start, stop)

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As in Storage."""
        wide = data.astype(np.float32)
        if "zero_point" in parts:
            wide -= parts["zero_point"]
        return scale_blocks(wide, parts["scale"], (self.block_rows or shape[0], shape[1]))
