"""EXL2 matrices made from the format's description: ExLlamaV2's own writer needs an NVIDIA GPU.

Independent of octuor.quant.exl2: codes are packed bit by bit, numbers are computed in NumPy's half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Exl2Matrix:
    """A module's tensors under the names that follow its own, and what ExLlamaV2 reads from them, [out, in]."""

    tensors: dict[str, NDArray[Any]]
    numbers: F32Array


def quantize_exl2(x: F32Array, groups: Sequence[tuple[int, int]], rng: np.random.Generator) -> Exl2Matrix:
    """x [out, in] in groups of (bits, inputs), the most important first; importance is the rng's."""
    out, inputs = x.shape
    padding = -out % 32
    order = rng.permutation(inputs)
    sorted_x = np.pad(x, ((0, padding), (0, 0))).T[order]
    words, scales, largest, stated, numbers = [], [], [], [], np.empty((inputs, out + padding), np.float16)
    begin = row = 0
    for bits, n in groups:
        block = sorted_x[begin : begin + n]
        ideal = np.abs(block).max(axis=0) / (2 ** (bits - 1) - 0.5) + 1e-12
        maximum = np.float16(ideal.max())  # of s = 15, whose scale is (15 + 1)^2 / 256 of it
        s = np.clip(np.round(np.sqrt(ideal / ideal.max()) * 16), 1, 16).astype(np.int64) - 1
        scale = np.float16((s + 1) ** 2) * (maximum * np.float16(1 / 256))
        with np.errstate(divide="ignore", invalid="ignore"):
            ideal_codes = np.nan_to_num(np.round(block / scale.astype(np.float32))) + 2 ** (bits - 1)
        codes = np.clip(ideal_codes, 0, 2**bits - 1).astype(np.int64)
        numbers[begin : begin + n] = (codes - 2 ** (bits - 1)).astype(np.float16) * scale
        words.append(pack(codes, bits))
        scales.append(s)
        largest.append(maximum)
        stated += [bits, row]
        row += len(words[-1])
        begin += n
    assert begin == inputs, groups
    tensors: dict[str, NDArray[Any]] = {
        "q_weight": np.concatenate(words),
        "q_scale": pack(np.array(scales).T, 4).T.copy(),
        "q_scale_max": np.array(largest, np.float16),
        "q_groups": np.array(stated, np.int16),
        "q_invperm": np.argsort(order).astype(np.int32),
    }
    return Exl2Matrix(tensors, numbers[np.argsort(order), :out].T.astype(np.float32))


def pack(codes: NDArray[np.int64], bits: int) -> NDArray[np.int32]:
    """Codes [n, columns] end to end from a word's lowest bit on: int32 [ceil(n * bits / 32), columns]."""
    n, columns = codes.shape
    stream = (codes[:, None, :] >> np.arange(bits)[:, None] & 1).reshape(n * bits, columns)
    stream = np.pad(stream, ((0, -len(stream) % 32), (0, 0))).astype(np.uint8)
    packed = np.packbits(stream, axis=0, bitorder="little")  # [bytes, columns]
    return np.ascontiguousarray(packed.T).view(np.int32).T.copy()
