"""GPTQ, as AutoGPTQ and gptqmodel store it: codes of 2, 3, 4 or 8 bits, packed along the inputs.

weight[o, i] = scales[g, o] * (code[i, o] - zero[g, o]), g the group of input i; rounded to the scales' number format,
as gptqmodel's TorchLinear.dequantize_weight does (the result is bit for bit the same).

    qweight   int32 [in * bits / 32, out]: 32 / bits inputs a word, lowest first; 3 bits straddle words
    qzeros    int32 [G, out * bits / 32], packed likewise along the outputs
    scales    [G, out] float16, bfloat16 or float32
    g_idx     int32 [in], the group of each input; without it, group_size inputs in a row have one

Files called "gptq" (all that AutoGPTQ wrote) hold zero - 1, those called "gptq_v2" the zero itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.packing import I32, SCALES, F32Array, scale_groups, unpack_bits, wrong_array

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq:
    """A matrix quantized by GPTQ: data is qweight, parts are qzeros, scales and, where the file has it, g_idx.

    bits         of a code: one of BITS
    group_size   inputs that share a scale where g_idx does not say otherwise; at least 1
    zero_offset  what has to be added to a stored zero: 1 for "gptq", 0 for "gptq_v2"
    """

    bits: int
    group_size: int
    zero_offset: int

    @property
    def name(self) -> str:
        """As in Storage."""
        return f"gptq-{self.bits}"

    @property
    def row_multiple(self) -> int:
        """As in Storage: whole words of qzeros."""
        return 32 // gcd(32, self.bits)

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if len(shape) != 2:
            return f"expected a matrix, found {len(shape)} axes"
        out, inputs = shape
        n_groups = ceil_div(inputs, self.group_size)
        return (
            wrong_array("qweight", data, [I32], (ceil_div(inputs * self.bits, 32), out))
            or wrong_array("qzeros", parts.get("qzeros"), [I32], (n_groups, ceil_div(out * self.bits, 32)))
            or wrong_array("scales", parts.get("scales"), SCALES, (n_groups, out))
            or ("g_idx" in parts and wrong_array("g_idx", parts["g_idx"], [I32], (inputs,)))
            or None
        )

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage."""
        words = slice(start * self.bits // 32, ceil_div(stop * self.bits, 32))
        cut = {"qzeros": parts["qzeros"][:, words], "scales": parts["scales"][:, start:stop]}
        return data[:, start:stop], {**parts, **cut}

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> F32Array:
        """As in Storage."""
        codes = unpack_bits(data.T, self.bits, shape[1])
        zeros = self.zeros(parts["qzeros"], shape[0])
        return scale_groups(codes, zeros.T, parts["scales"].T, self.group_size, parts.get("g_idx"))

    def zeros(self, qzeros: NDArray[np.int32], out: int) -> NDArray[np.uint8]:
        """The zeros [G, out], the stored convention undone.

        gptqmodel adds 1 to whole words, so that a zero of 0, stored as -1 with a borrow from the field above it, comes
        back; of 3 bits it adds to each field by itself. Sound files have no such zeros, and both ways are the same.
        """
        if self.bits == 3:
            return (unpack_bits(qzeros, 3, out) + np.uint8(self.zero_offset)) & np.uint8(7)
        ones = sum(self.zero_offset << shift for shift in range(0, 32, self.bits))
        return unpack_bits(qzeros.view(np.uint32) + np.uint32(ones), self.bits, out)
