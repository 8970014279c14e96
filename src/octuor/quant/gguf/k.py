"""K types: 256 weights in groups of 16 or 32, each group's scale a small number times the block's d.

    Q2_K, Q4_K, Q5_K: weight = d * s * q - dmin * m        Q3_K, Q6_K: weight = d * s * (q - offset)

Source: llama.cpp, ggml/src/ggml-common.h (blocks) and ggml-quants.c (dequantize_row_*).
"""

from __future__ import annotations

import numpy as np

from octuor.quant.base import Array
from octuor.quant.gguf.base import Blocks, F32Array, U8Array, f32, fields


def _q2_k(b: Array, out: F32Array) -> None:
    scales = b["scales"][:, :, None]
    groups = out.reshape(-1, 16, 16)
    codes = fields(b["qs"], 2, 32).reshape(groups.shape).astype(np.float32)
    np.multiply(codes, f32(b["d"]) * (scales & 15).astype(np.float32), out=groups)
    np.subtract(groups, f32(b["dmin"]) * (scales >> 4).astype(np.float32), out=groups)


def _q3_k(b: Array, out: F32Array) -> None:
    groups = out.reshape(-1, 16, 16)
    codes = fields(b["qs"], 2, 32) | (fields(b["hmask"], 1, 32) << 2)
    numbers = (codes.view(np.int8) - np.int8(4)).reshape(groups.shape).astype(np.float32)
    np.multiply(numbers, f32(b["d"]) * _q3_k_scales(b["scales"])[:, :, None], out=groups)


def _q3_k_scales(packed: U8Array) -> F32Array:
    """Scales [n, 16], -32 to 31: their low four bits in 8 bytes, their high two in 4, both as runs are."""
    n = len(packed)
    low = (packed[:, None, :8] >> np.array([[0], [4]], dtype=np.uint8)) & np.uint8(15)
    high = (packed[:, None, 8:] >> np.array([[0], [2], [4], [6]], dtype=np.uint8)) & np.uint8(3)
    codes = low.reshape(n, 16) | (high.reshape(n, 16) << 4)
    return (codes.view(np.int8) - np.int8(32)).astype(np.float32)


def _q4_k(b: Array, out: F32Array) -> None:
    _with_minimum(b, fields(b["qs"], 4, 32), out)


def _q5_k(b: Array, out: F32Array) -> None:
    _with_minimum(b, fields(b["qs"], 4, 32) | (fields(b["qh"], 1, 32) << np.uint8(4)), out)


def _with_minimum(b: Array, codes: U8Array, out: F32Array) -> None:
    packed = b["scales"].reshape(-1, 3, 4)  # six bits of scales 0 to 3, of minima 0 to 3, then the rest of both
    scales, minima, rest = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = np.concatenate([scales & 63, (rest & 15) | ((scales >> 2) & 48)], axis=1)[:, :, None]
    minima = np.concatenate([minima & 63, (rest >> 4) | ((minima >> 2) & 48)], axis=1)[:, :, None]
    groups = out.reshape(codes.shape)
    np.multiply(codes.astype(np.float32), f32(b["d"]) * scales.astype(np.float32), out=groups)
    np.subtract(groups, f32(b["dmin"]) * minima.astype(np.float32), out=groups)


def _q6_k(b: Array, out: F32Array) -> None:
    groups = out.reshape(-1, 16, 16)
    codes = fields(b["ql"], 4, 64) | (fields(b["qh"], 2, 32) << 4)
    numbers = (codes.view(np.int8) - np.int8(32)).reshape(groups.shape).astype(np.float32)
    np.multiply(numbers, f32(b["d"]) * b["scales"].astype(np.float32)[:, :, None], out=groups)


def _q8_k(b: Array, out: F32Array) -> None:
    np.multiply(b["qs"].astype(np.float32), b["d"][:, None], out=out)


_D, _DMIN, _SCALES = ("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12)

K_TYPES = (
    Blocks("gguf-q2_k", 10, np.dtype([("scales", "u1", 16), ("qs", "u1", 64), _D, _DMIN]), 256, _q2_k),
    Blocks("gguf-q3_k", 11, np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), _SCALES, _D]), 256, _q3_k),
    Blocks("gguf-q4_k", 12, np.dtype([_D, _DMIN, _SCALES, ("qs", "u1", 128)]), 256, _q4_k),
    Blocks("gguf-q5_k", 13, np.dtype([_D, _DMIN, _SCALES, ("qh", "u1", 32), ("qs", "u1", 128)]), 256, _q5_k),
    Blocks("gguf-q6_k", 14, np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D]), 256, _q6_k),
    Blocks("gguf-q8_k", 15, np.dtype([("d", "<f4"), ("qs", "i1", 256), ("sums", "<i2", 16)]), 256, _q8_k),
)
