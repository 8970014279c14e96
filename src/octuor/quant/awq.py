"""AWQ, as AutoAWQ's GEMM kernels store it: codes of 4 bits packed along the outputs, a row for each input.

weight[o, i] = (code[i, o] - zero[g, o]) * scales[g, o], g = i // group_size; rounded to the scales' number format, as
AutoAWQ's and gptqmodel's dequantize_gemm do (the result is bit for bit the same).

    qweight   int32 [in, out / 8]: eight outputs a word, from the lowest nibble 0 2 4 6 1 3 5 7
    qzeros    int32 [G, out / 8], in the same order
    scales    [G, out] float16, bfloat16 or float32
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.packing import I32, SCALES, F32Array, scale_groups, unpack_bits, wrong_array

NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)  # where outputs 0 to 7 of a word lie


@dataclass(frozen=True)
class Awq:
    """A matrix quantized by AWQ: data is qweight, parts are qzeros and scales.

    group_size  inputs that share a scale; at least 1
    """

    group_size: int

    @property
    def name(self) -> str:
        """As in Storage."""
        return "awq-4"

    @property
    def row_multiple(self) -> int:
        """As in Storage: whole words."""
        return 8

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        if len(shape) != 2 or shape[0] % 8:
            return f"expected a matrix of a multiple of 8 outputs, found {list(shape)}"
        out, inputs = shape
        n_groups = ceil_div(inputs, self.group_size)
        return (
            wrong_array("qweight", data, [I32], (inputs, out // 8))
            or wrong_array("qzeros", parts.get("qzeros"), [I32], (n_groups, out // 8))
            or wrong_array("scales", parts.get("scales"), SCALES, (n_groups, out))
        )

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage."""
        words = slice(start // 8, stop // 8)
        return data[:, words], {"qzeros": parts["qzeros"][:, words], "scales": parts["scales"][:, start:stop]}

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> F32Array:  # noqa: ARG002
        """As in Storage."""
        return scale_groups(unpack(data).T, unpack(parts["qzeros"]).T, parts["scales"].T, self.group_size, None)


def unpack(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[n, out / 8] words to [n, out] codes, outputs in order."""
    codes = unpack_bits(words, 4, words.shape[1] * 8).reshape(len(words), -1, 8)
    return codes[:, :, NIBBLES].reshape(len(words), -1)
