"""Types of one scale for 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0; and those of 1 and 2 bits, Q1_0 and Q2_0.

    Q?_0: weight = d * (q - offset)        Q?_1: weight = d * q + m

Source: llama.cpp, ggml/src/ggml-common.h (blocks) and ggml-quants.c (dequantize_row_*).
"""

from __future__ import annotations

import numpy as np

from octuor.quant.base import Array
from octuor.quant.gguf.base import Blocks, F32Array, U8Array, bits, nibbles


def _q4_0(b: Array, out: F32Array) -> None:
    _scaled(b, nibbles(b["qs"]), 8, out)


def _q4_1(b: Array, out: F32Array) -> None:
    _shifted(b, nibbles(b["qs"]), out)


def _q5_0(b: Array, out: F32Array) -> None:
    _scaled(b, nibbles(b["qs"]) | (bits(b["qh"]) << np.uint8(4)), 16, out)


def _q5_1(b: Array, out: F32Array) -> None:
    _shifted(b, nibbles(b["qs"]) | (bits(b["qh"]) << np.uint8(4)), out)


def _q8_0(b: Array, out: F32Array) -> None:
    np.multiply(b["qs"].astype(np.float32), b["d"].astype(np.float32)[:, None], out=out)


def _q1_0(b: Array, out: F32Array) -> None:
    _scaled(b, bits(b["qs"]) << np.uint8(1), 1, out)  # a set bit is d, another -d


def _q2_0(b: Array, out: F32Array) -> None:
    codes = (b["qs"][:, :, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & np.uint8(3)  # four neighbours a byte
    _scaled(b, codes.astype(np.uint8).reshape(out.shape), 1, out)


def _scaled(b: Array, codes: U8Array, offset: int, out: F32Array) -> None:
    np.multiply((codes.view(np.int8) - np.int8(offset)).astype(np.float32), b["d"].astype(np.float32)[:, None], out=out)


def _shifted(b: Array, codes: U8Array, out: F32Array) -> None:
    np.multiply(codes.astype(np.float32), b["d"].astype(np.float32)[:, None], out=out)
    np.add(out, b["m"].astype(np.float32)[:, None], out=out)


_D, _M, _QH = ("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4)

LEGACY = (
    Blocks("gguf-q4_0", 2, np.dtype([_D, ("qs", "u1", 16)]), 32, _q4_0),
    Blocks("gguf-q4_1", 3, np.dtype([_D, _M, ("qs", "u1", 16)]), 32, _q4_1),
    Blocks("gguf-q5_0", 6, np.dtype([_D, _QH, ("qs", "u1", 16)]), 32, _q5_0),
    Blocks("gguf-q5_1", 7, np.dtype([_D, _M, _QH, ("qs", "u1", 16)]), 32, _q5_1),
    Blocks("gguf-q8_0", 8, np.dtype([_D, ("qs", "i1", 32)]), 32, _q8_0),
    Blocks("gguf-q1_0", 41, np.dtype([_D, ("qs", "u1", 16)]), 128, _q1_0),
    Blocks("gguf-q2_0", 42, np.dtype([_D, ("qs", "u1", 16)]), 64, _q2_0),
)
