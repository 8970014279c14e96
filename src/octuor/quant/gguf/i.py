"""I types: eight (or four) weights at a time are a row of a book of 256 to 2048 good ones, with signs apart.

    IQ2_*, IQ3_*: weight = scale * book[index] * sign        IQ1_*: weight = scale * (book[index] + shift)

The books are long, arbitrary tables; they are taken from the package gguf (`pip install "octuor[gguf]"`).
Source: llama.cpp, ggml/src/ggml-common.h (blocks) and ggml-quants.c (dequantize_row_iq*).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant.base import Array
from octuor.quant.gguf.base import Blocks, F32Array

_SHIFT = np.float32(0.125)  # of IQ1_S and IQ1_M
_FOURS = np.array([0, 7, 14, 21], dtype=np.uint32)  # where a word has its four indices of signs
_BYTES = np.arange(256, dtype=np.uint8)[:, None]
_SIGNS = 1 - 2 * np.unpackbits(_BYTES, axis=1, bitorder="little").astype(np.float32)  # [256, 8], a set bit is -1
# Seven bits are eight signs: the last one makes the number of minuses even.
_EVEN_SIGNS = np.concatenate([_SIGNS[:128, :7], _SIGNS[:128, :7].prod(axis=1, keepdims=True)], axis=1)


@lru_cache(maxsize=8)
def book(name: str) -> F32Array:
    """The book of a type by its name in the package gguf: float32 [rows, 8], or [rows, 4] of IQ3 types.

    Raises FormatError if the package is not there.
    """
    try:
        from gguf import quants
    except ImportError as error:
        raise FormatError(
            f"{name}: expected the package gguf, which has this type's tables, found none ({error}); "
            'run pip install "octuor[gguf]"'
        ) from error
    kind: Any = getattr(quants, name)
    kind.init_grid()
    return np.ascontiguousarray(kind.grid.reshape(kind.grid_shape), dtype=np.float32)


def _iq2_xxs(b: Array, out: F32Array) -> None:
    words = b["qs"].reshape(-1, 8, 2)  # four indices of a byte, then four of signs and the scale
    scales = _scales(b, words[:, :, 1] >> np.uint32(28), 0.25)
    indices = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)
    _write(scales, book("IQ2_XXS")[indices], _even_signs(words[:, :, 1]), out)


def _iq2_xs(b: Array, out: F32Array) -> None:
    scales = _scales(b, _pairs(b["scales"]), 0.25)
    _write(scales, book("IQ2_XS")[b["qs"] & np.uint16(511)], _EVEN_SIGNS[b["qs"] >> np.uint16(9)], out)


def _iq2_s(b: Array, out: F32Array) -> None:
    scales = _scales(b, _pairs(b["scales"]), 0.25)
    indices = b["qs"] | _high_bits(b["qh"], np.array([0, 2, 4, 6], dtype=np.uint8), 3)
    _write(scales, book("IQ2_S")[indices], _SIGNS[b["signs"]], out)


def _iq3_xxs(b: Array, out: F32Array) -> None:
    scales = _scales(b, b["scales"] >> np.uint32(28), 0.5)
    _write(scales, book("IQ3_XXS")[b["qs"]], _even_signs(b["scales"]), out)


def _iq3_s(b: Array, out: F32Array) -> None:
    scales = b["d"].astype(np.float32)[:, None] * (1 + 2 * _pairs(b["scales"])).astype(np.float32)
    indices = b["qs"] | _high_bits(b["qh"], np.arange(8, dtype=np.uint8), 1)
    _write(scales, book("IQ3_S")[indices], _SIGNS[b["signs"]], out)


def _iq1_s(b: Array, out: F32Array) -> None:
    scales = b["d"].astype(np.float32)[:, None] * (2 * ((b["qh"] >> 12) & 7) + 1)
    shifts = np.where(b["qh"] & 0x8000, -_SHIFT, _SHIFT)[:, :, None]
    high = (b["qh"][:, :, None] >> np.array([0, 3, 6, 9], dtype=np.uint16)) & np.uint16(7)
    rows = book("IQ1_S")[b["qs"] | (high.reshape(-1, 32) << 8)].reshape(-1, 8, 32)
    np.multiply(rows + shifts, scales[:, :, None], out=out.reshape(rows.shape))


def _iq1_m(b: Array, out: F32Array) -> None:
    packed = b["scales"]  # four words of twelve bits of scales and four of d
    d = ((packed >> 12) << np.array([0, 4, 8, 12], dtype=np.uint16)).sum(axis=1, dtype=np.uint16).view(np.float16)
    threes = (packed[:, :, None] >> np.array([0, 3, 6, 9], dtype=np.uint16)) & np.uint16(7)
    scales = d.astype(np.float32)[:, None] * (2 * threes.reshape(-1, 16) + 1)
    halves = (b["qh"][:, :, None] >> np.array([0, 4], dtype=np.uint8)).reshape(-1, 32)
    shifts = np.where(halves & 8, -_SHIFT, _SHIFT)[:, :, None]
    rows = book("IQ1_M")[b["qs"] | ((halves & np.uint8(7)).astype(np.uint16) << 8)]
    np.multiply((rows + shifts).reshape(-1, 16, 16), scales[:, :, None], out=out.reshape(-1, 16, 16))


def _scales(b: Array, codes: NDArray[Any], factor: float) -> F32Array:
    return b["d"].astype(np.float32)[:, None] * (np.float32(0.5) + codes.astype(np.float32)) * np.float32(factor)


def _pairs(packed: Array) -> Array:
    """Numbers of 4 bits [n, 2 m] from bytes [n, m], a byte's lower half before its upper one."""
    return ((packed[:, :, None] >> np.array([0, 4], dtype=np.uint8)) & np.uint8(15)).reshape(len(packed), -1)


def _high_bits(packed: Array, shifts: Array, mask: int) -> NDArray[np.uint16]:
    """What the bits above the eighth add to indices [n, m * len(shifts)]."""
    high = (packed[:, :, None] >> shifts) & np.uint8(mask)
    return high.reshape(len(packed), -1).astype(np.uint16) << np.uint16(8)


def _even_signs(words: Array) -> F32Array:
    return _EVEN_SIGNS[(words[:, :, None] >> _FOURS) & np.uint32(127)]


def _write(scales: F32Array, rows: F32Array, signs: F32Array, out: F32Array) -> None:
    """scales [n, groups] * rows * signs, both of as many numbers a block as out has."""
    groups = out.reshape(*scales.shape, -1)
    np.multiply(rows.reshape(groups.shape), signs.reshape(groups.shape), out=groups)
    np.multiply(groups, scales[:, :, None], out=groups)


_D = ("d", "<f2")
_IQ2_S = np.dtype([_D, ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)])
_IQ3_S = np.dtype([_D, ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])
_IQ1_M = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)])

I_TYPES = (
    Blocks("gguf-iq2_xxs", 16, np.dtype([_D, ("qs", "<u4", 16)]), 256, _iq2_xxs),
    Blocks("gguf-iq2_xs", 17, np.dtype([_D, ("qs", "<u2", 32), ("scales", "u1", 8)]), 256, _iq2_xs),
    Blocks("gguf-iq2_s", 22, _IQ2_S, 256, _iq2_s),
    Blocks("gguf-iq3_xxs", 18, np.dtype([_D, ("qs", "u1", 64), ("scales", "<u4", 8)]), 256, _iq3_xxs),
    Blocks("gguf-iq3_s", 21, _IQ3_S, 256, _iq3_s),
    Blocks("gguf-iq1_s", 19, np.dtype([_D, ("qs", "u1", 32), ("qh", "<u2", 8)]), 256, _iq1_s),
    Blocks("gguf-iq1_m", 29, _IQ1_M, 256, _iq1_m),
)
