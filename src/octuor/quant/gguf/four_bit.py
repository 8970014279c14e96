"""Types whose four bits choose one of sixteen unequal numbers: MXFP4 and NVFP4 (a float of 4 bits), IQ4_NL, IQ4_XS.

Source: llama.cpp, ggml/src/ggml-common.h (blocks, tables) and ggml-quants.c (dequantize_row_*); MXFP4: OCP Microscaling
Formats, version 1.0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array
from octuor.quant.gguf.base import Blocks, F32Array, U8Array, f32, nibbles

# Twice the floats of 2 bits exponent and 1 bit mantissa; the scales below are halved.
_FLOAT4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)
_UNEQUAL = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)  # fmt: skip


def _iq4_nl(b: Array, out: F32Array) -> None:
    np.multiply(_UNEQUAL[nibbles(b["qs"])], b["d"].astype(np.float32)[:, None], out=out)


def _iq4_xs(b: Array, out: F32Array) -> None:
    n = len(b)
    low = (b["scales_l"][:, :, None] >> np.array([0, 4], dtype=np.uint8)).reshape(n, 8) & np.uint8(15)
    high = (b["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & np.uint8(3)
    scales = (low | (high << 4)).view(np.int8) - np.int8(32)
    numbers = _UNEQUAL[nibbles(b["qs"].reshape(-1, 16))].reshape(n, 8, 32)
    np.multiply(numbers, f32(b["d"]) * scales.astype(np.float32)[:, :, None], out=out.reshape(n, 8, 32))


def _mxfp4(b: Array, out: F32Array) -> None:
    np.multiply(_FLOAT4[nibbles(b["qs"])], _half_power(b["e"])[:, None], out=out)


def _half_power(exponent: U8Array) -> F32Array:
    """2 ** (exponent - 128), of which the two smallest are subnormal."""
    bits = exponent.astype(np.uint32)
    small = np.uint32(0x00200000) << np.minimum(bits, 1)
    return np.where(bits < 2, small, (np.maximum(bits, 1) - 1) << np.uint32(23)).view(np.float32)


def _float8_halves() -> F32Array:
    """Half of each float of 4 bits exponent and 3 bits mantissa, its sign ignored; 0x7F, which is none, is 0."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    halves = np.ldexp(np.where(exponent == 0, mantissa, mantissa + 8), np.maximum(exponent, 1) - 11).astype(np.float32)
    halves[0x7F] = 0
    return halves


_FLOAT8_HALVES = _float8_halves()


def _nvfp4(b: Array, out: F32Array) -> None:
    scales: NDArray[np.float32] = _FLOAT8_HALVES[b["d"]]
    numbers = _FLOAT4[nibbles(b["qs"].reshape(-1, 8))].reshape(-1, 4, 16)
    np.multiply(numbers, scales[:, :, None], out=out.reshape(-1, 4, 16))


_D = ("d", "<f2")

FOUR_BIT = (
    Blocks("gguf-iq4_nl", 20, np.dtype([_D, ("qs", "u1", 16)]), 32, _iq4_nl),
    Blocks(
        "gguf-iq4_xs", 23, np.dtype([_D, ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)]), 256, _iq4_xs
    ),
    Blocks("gguf-mxfp4", 39, np.dtype([("e", "u1"), ("qs", "u1", 16)]), 32, _mxfp4),
    Blocks("gguf-nvfp4", 40, np.dtype([("d", "u1", 4), ("qs", "u1", 32)]), 64, _nvfp4),
)
