"""What the int8-exact formats share, and q8, the plainest of them.

    weight = D[row, 256 inputs] * s[row, 16 inputs] * q      |s * q| <= 127

D is a bfloat16, s a small signed integer, q a short code, so that s * q is an exact int8: prompts become
a plain int8 matrix product whose integer sums run over 256 inputs. q8 has s = 1 and 8-bit q; grouped.py has
the rest.

A tile holds 64 rows x 256 inputs as 4 strips of 16 rows. Its sections, each a multiple of 64 bytes, are for q8:

    D       uint16 [64]               bfloat16 of each row
    codes   int8 [4, 64, 16, 4]       strip, quad of inputs, row, input in the quad

So one 64-byte load holds 16 rows x 4 inputs, the operand of one vpdpbusd, AMX tile row or pair of sdots, and a tile is
read as one linear stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant.base import Array, Format, ceil_div, relative_importance
from octuor.quant.plain import from_bf16

ROWS, STRIPS, STRIP, INPUTS, GROUP = 64, 4, 16, 256, 16
GROUPS = INPUTS // GROUP
TILE = (ROWS, INPUTS)
Q8_BYTES = 2 * ROWS + ROWS * INPUTS


def tiles(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut [out, in] into [row tiles, input tiles, 64, 256], padding with zeros; FormatError on NaN or infinity."""
    out, inputs = x.shape
    if not (finite := np.isfinite(x)).all():
        row = int(np.argwhere(~finite)[0, 0])
        raise FormatError(f"quantize: expected finite weights, found another in row {row}; is the checkpoint damaged?")
    tall, wide = ceil_div(out, ROWS), ceil_div(inputs, INPUTS)
    padded = np.zeros((tall * ROWS, wide * INPUTS), dtype=np.float32)
    padded[:out, :inputs] = x
    return padded.reshape(tall, ROWS, wide, INPUTS).swapaxes(1, 2)


def untile(cut: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The inverse of tiles, without the padding."""
    tall, wide = cut.shape[:2]
    flat = cut.swapaxes(1, 2).reshape(tall * ROWS, wide * INPUTS)
    return np.ascontiguousarray(flat[: shape[0], : shape[1]])


def bf16_up(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The least bfloat16 at or above each x >= 0, so that the largest weight is never clipped."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def reciprocal(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / x, and 0 where x is 0 or its reciprocal would overflow."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / x
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _quantize_q8(
    x: NDArray[np.float32],
    importance: NDArray[np.float32] | None = None,
    *,
    thorough: bool = False,  # noqa: ARG001
) -> Array:
    """D is what just reaches the largest weight, whatever is important: another gains nothing at 8 bits."""
    cut = tiles(x)
    if importance is not None:
        relative_importance(importance, x.shape[1])  # refuses what other formats refuse
    d = bf16_up(np.abs(cut).max(axis=-1) / np.float32(127))
    codes = np.rint(cut * reciprocal(from_bf16(d))[..., None]).clip(-127, 127).astype(np.int8)
    return pack_q8(d, codes)


def pack_q8(d: NDArray[np.uint16], codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Lay out tiles: D [tall, wide, 64] bfloat16, codes [tall, wide, 64, 256] -> uint8 [tall, wide, Q8_BYTES]."""
    tall, wide = codes.shape[:2]
    data = np.empty((tall, wide, Q8_BYTES), dtype=np.uint8)
    data[..., : 2 * ROWS] = np.ascontiguousarray(d).view(np.uint8)
    quads = codes.reshape(tall, wide, STRIPS, STRIP, INPUTS // 4, 4).swapaxes(3, 4)
    data[..., 2 * ROWS :] = np.ascontiguousarray(quads).view(np.uint8).reshape(tall, wide, -1)
    return data


def unpack_q8(data: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The inverse of pack_q8, with D widened."""
    tall, wide = data.shape[:2]
    d = from_bf16(np.ascontiguousarray(data[..., : 2 * ROWS]).view(np.uint16))
    quads = np.ascontiguousarray(data[..., 2 * ROWS :]).view(np.int8)
    codes = quads.reshape(tall, wide, STRIPS, INPUTS // 4, STRIP, 4).swapaxes(3, 4).reshape(tall, wide, ROWS, INPUTS)
    return d, codes


def _dequantize_q8(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    d, codes = unpack_q8(data)
    return untile(codes.astype(np.float32) * d[..., None], shape)


def quantize_activations(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round activations to int8, one scale a token and 256 inputs, as the kernels do.

    x        [T, in] float32
    returns  codes [T, ceil(in / 256) * 256] int8 in -127..127, scales [T, ceil(in / 256)] float32
    """
    n_tokens, inputs = x.shape
    blocks = ceil_div(inputs, INPUTS)
    padded = np.zeros((n_tokens, blocks * INPUTS), dtype=np.float32)
    padded[:, :inputs] = x
    cut = padded.reshape(n_tokens, blocks, INPUTS)
    scales = np.abs(cut).max(-1) / np.float32(127)
    codes = np.rint(cut * reciprocal(scales)[..., None]).clip(-127, 127).astype(np.int8)
    return codes.reshape(n_tokens, blocks * INPUTS), scales


Q8 = Format("q8", np.dtype(np.uint8), "U8", 0.009, _quantize_q8, _dequantize_q8, *TILE, tile_bytes=Q8_BYTES)
