"""Types of three numbers, -1, 0 and 1: TQ1_0, five to a byte in powers of three, and TQ2_0.

Source: llama.cpp, ggml/src/ggml-common.h (blocks) and ggml-quants.c (dequantize_row_tq*).
"""

from __future__ import annotations

import numpy as np

from octuor.quant.base import Array
from octuor.quant.gguf.base import Blocks, F32Array, U8Array, fields


def _tq1_0(b: Array, out: F32Array) -> None:
    codes = np.concatenate([_digits(b["qs"][:, :32], 5), _digits(b["qs"][:, 32:], 5), _digits(b["qh"], 4)], axis=1)
    _scaled(b, codes, out)


def _digits(packed: U8Array, n_digits: int) -> U8Array:
    """The leading digits, base three, of bytes [n, m] as fractions of 256: [n, n_digits * m], first digits first."""
    shifted = packed[:, None, :] * np.array([1, 3, 9, 27, 81], dtype=np.uint8)[:n_digits, None]
    return ((shifted.astype(np.uint16) * 3) >> 8).astype(np.uint8).reshape(len(packed), -1)


def _tq2_0(b: Array, out: F32Array) -> None:
    _scaled(b, fields(b["qs"], 2, 32).reshape(out.shape), out)


def _scaled(b: Array, codes: U8Array, out: F32Array) -> None:
    np.multiply((codes.view(np.int8) - np.int8(1)).astype(np.float32), b["d"].astype(np.float32)[:, None], out=out)


TERNARY = (
    Blocks("gguf-tq1_0", 34, np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")]), 256, _tq1_0),
    Blocks("gguf-tq2_0", 35, np.dtype([("qs", "u1", 64), ("d", "<f2")]), 256, _tq2_0),
)
