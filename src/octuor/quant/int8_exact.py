"""The int8-exact formats: q8 and q4.

    weight = D[row, 256 inputs] * s[row, 16 inputs] * q      |s * q| <= 127

D is a bfloat16, s a small signed integer, q a short code, so that s * q is an exact int8: prompts become
a plain int8 matrix product whose integer sums run over 256 inputs. q8 has s = 1 and 8-bit codes; q4 has
5-bit s in -15..15 and 4-bit codes in -8..7. The sign of s lets each group choose the side that has
the extra code.

A tile holds 64 rows x 256 inputs as 4 strips of 16 rows. Its sections, each a multiple of 64 bytes:

    D       uint16 [64]                 bfloat16 of each row
    signs   uint16 [4, 16]              q4: strip, group; bit i: s of row i is negative
    scales  uint32 [4, 2, 16]           q4: strip, half, row; nibble g: low four bits of s of group 8 * half + g
    codes   q8  int8  [4, 64, 16, 4]    strip, quad of inputs, row, input in the quad
            q4  uint8 [4, 32, 16, 4]    strip, pair of quads, row, input in the quad:
                                        low nibble q + 8 of the even quad, high nibble of the odd one

s is two's complement in five bits: nibble - 16 * sign. So one 64-byte load holds 16 rows x 4 inputs, the
operand of one vpdpbusd, AMX tile row or pair of sdots, and a tile is read as one linear stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant.base import Array, Format, ceil_div
from octuor.quant.plain import from_bf16, to_bf16

ROWS, STRIPS, STRIP, INPUTS, GROUP = 64, 4, 16, 256, 16
GROUPS = INPUTS // GROUP
S_MAX = 15
Q4_BYTES = 2 * ROWS + 2 * STRIPS * GROUPS + ROWS * GROUPS // 2 + ROWS * INPUTS // 2
Q8_BYTES = 2 * ROWS + ROWS * INPUTS


def _tiles(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut [out, in] into [row tiles, input tiles, 64, 256], padding with zeros; FormatError on NaN or infinity."""
    out, inputs = x.shape
    if not (finite := np.isfinite(x)).all():
        row = int(np.argwhere(~finite)[0, 0])
        raise FormatError(f"quantize: expected finite weights, found another in row {row}; is the checkpoint damaged?")
    tall, wide = ceil_div(out, ROWS), ceil_div(inputs, INPUTS)
    padded = np.zeros((tall * ROWS, wide * INPUTS), dtype=np.float32)
    padded[:out, :inputs] = x
    return padded.reshape(tall, ROWS, wide, INPUTS).swapaxes(1, 2)


def _untile(tiles: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    tall, wide = tiles.shape[:2]
    flat = tiles.swapaxes(1, 2).reshape(tall * ROWS, wide * INPUTS)
    return np.ascontiguousarray(flat[: shape[0], : shape[1]])


def _bf16_up(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The least bfloat16 at or above each x >= 0, so that the largest weight is never clipped."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def _reciprocal(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / x, and 0 where x is 0 or its reciprocal would overflow."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / x
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _quantize_q8(x: NDArray[np.float32]) -> Array:
    tiles = _tiles(x)
    d = _bf16_up(np.abs(tiles).max(axis=-1) / np.float32(127))
    codes = np.rint(tiles * _reciprocal(from_bf16(d))[..., None]).clip(-127, 127).astype(np.int8)
    tall, wide = codes.shape[:2]
    data = np.empty((tall, wide, Q8_BYTES), dtype=np.uint8)
    data[..., : 2 * ROWS] = np.ascontiguousarray(d).view(np.uint8)
    quads = codes.reshape(tall, wide, STRIPS, STRIP, INPUTS // 4, 4).swapaxes(3, 4)
    data[..., 2 * ROWS :] = np.ascontiguousarray(quads).view(np.uint8).reshape(tall, wide, -1)
    return data


def _dequantize_q8(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    tall, wide = data.shape[:2]
    d = from_bf16(np.ascontiguousarray(data[..., : 2 * ROWS]).view(np.uint16))
    quads = np.ascontiguousarray(data[..., 2 * ROWS :]).view(np.int8)
    codes = quads.reshape(tall, wide, STRIPS, INPUTS // 4, STRIP, 4).swapaxes(3, 4).reshape(tall, wide, ROWS, INPUTS)
    return _untile(codes.astype(np.float32) * d[..., None], shape)


def _codes(w: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(w * _reciprocal(scale)[..., None]).clip(-8, 7)


def search_q4(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.int8], NDArray[np.int8]]:
    """Choose D, s and q for blocks of 256 inputs.

    rows     [N, 256] float32
    returns  D [N] bfloat16 as uint16, s [N, 16] int8 in -15..15, q [N, 256] int8 in -8..7

    Per group the scale that puts its largest weight on code -8 is the start; a few scales around it
    are tried, and D is then fitted by least squares to the sums that the chosen s and q make.
    """
    w = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, GROUPS, GROUP)
    extreme = np.take_along_axis(w, np.abs(w).argmax(-1)[..., None], -1)[..., 0]  # [N, 16], with its sign
    ideal = extreme / np.float32(-8)
    d = from_bf16(_bf16_up(np.abs(ideal).max(-1) / np.float32(S_MAX)))  # [N]
    for refit in (True, False):
        near = np.rint(ideal * _reciprocal(d)[:, None])
        best_error = np.full(near.shape, np.inf, dtype=np.float32)
        s, q = np.zeros_like(near), np.zeros_like(w)
        for sign in (1, -1):
            for delta in (-2, -1, 0, 1, 2):
                candidate = (sign * near + delta).clip(-S_MAX, S_MAX)
                scale = candidate * d[:, None]
                codes = _codes(w, scale)
                error = np.square(w - scale[..., None] * codes).sum(-1)
                better = error < best_error
                best_error = np.where(better, error, best_error)
                s = np.where(better, candidate, s)
                q = np.where(better[..., None], codes, q)
        if refit:
            exact = s[..., None] * q
            power = np.square(exact).sum((-1, -2))
            fitted = (w * exact).sum((-1, -2)) * _reciprocal(power)
            d = from_bf16(to_bf16(np.where(fitted > 0, fitted, d).astype(np.float32)))
    return to_bf16(d), s.astype(np.int8), q.astype(np.int8).reshape(-1, INPUTS)


def pack_q4(d: NDArray[np.uint16], s: NDArray[np.int8], q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Lay out tiles: D [..., 64], s [..., 64, 16], q [..., 64, 256] -> uint8 [..., Q4_BYTES]."""
    lead = d.shape[:-1]
    by_strip = s.reshape(*lead, STRIPS, STRIP, GROUPS)
    bits = np.uint16(1) << np.arange(STRIP, dtype=np.uint16)
    signs = ((by_strip < 0) * bits[:, None]).sum(-2).astype(np.uint16)
    nibbles = (by_strip.astype(np.int32) & 15).astype(np.uint32).reshape(*lead, STRIPS, STRIP, 2, 8)
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    scales = (nibbles << shifts).sum(-1).astype(np.uint32).swapaxes(-1, -2)
    unsigned = (q.astype(np.int16) + 8).astype(np.uint8).reshape(*lead, STRIPS, STRIP, INPUTS // 8, 2, 4)
    packed = (unsigned[..., 0, :] | (unsigned[..., 1, :] << np.uint8(4))).swapaxes(-2, -3)
    sections = [np.ascontiguousarray(part).view(np.uint8).reshape(*lead, -1) for part in (d, signs, scales, packed)]
    return np.concatenate(sections, axis=-1)


def unpack_q4(data: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int8]]:
    """The inverse of pack_q4, with D widened: D [..., 64] float32, s [..., 64, 16], q [..., 64, 256]."""
    lead = data.shape[:-1]
    ends = np.cumsum([2 * ROWS, 2 * STRIPS * GROUPS, ROWS * GROUPS // 2])
    parts = [np.ascontiguousarray(part) for part in np.split(data, ends, axis=-1)]
    d = from_bf16(parts[0].view(np.uint16))
    signs = parts[1].view(np.uint16).reshape(*lead, STRIPS, 1, GROUPS)
    negative = (signs >> np.arange(STRIP, dtype=np.uint16)[:, None]) & 1
    words = parts[2].view(np.uint32).reshape(*lead, STRIPS, 2, STRIP, 1)
    nibbles = ((words >> np.arange(0, 32, 4, dtype=np.uint32)) & 15).swapaxes(-2, -3)
    s = nibbles.reshape(*lead, STRIPS, STRIP, GROUPS).astype(np.int8) - 16 * negative.astype(np.int8)
    packed = parts[3].reshape(*lead, STRIPS, INPUTS // 8, STRIP, 1, 4)
    both = np.concatenate([packed & 15, packed >> 4], axis=-2).astype(np.int8) - 8
    q = np.moveaxis(both, -4, -3).reshape(*lead, ROWS, INPUTS)
    return d, s.reshape(*lead, ROWS, GROUPS), q


def _quantize_q4(x: NDArray[np.float32]) -> Array:
    tiles = _tiles(x)
    lead = tiles.shape[:2]
    d, s, q = search_q4(tiles.reshape(-1, INPUTS))
    return pack_q4(d.reshape(*lead, ROWS), s.reshape(*lead, ROWS, GROUPS), q.reshape(*lead, ROWS, INPUTS))


def _dequantize_q4(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    d, s, q = unpack_q4(data)
    return _untile(np.repeat(s, GROUP, axis=-1).astype(np.float32) * q * d[..., None], shape)


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
    codes = np.rint(cut * _reciprocal(scales)[..., None]).clip(-127, 127).astype(np.int8)
    return codes.reshape(n_tokens, blocks * INPUTS), scales


_TILE = {"tile_rows": ROWS, "tile_inputs": INPUTS}
Q8 = Format("q8", np.dtype(np.uint8), "U8", 0.009, _quantize_q8, _dequantize_q8, **_TILE, tile_bytes=Q8_BYTES)
Q4 = Format("q4", np.dtype(np.uint8), "U8", 0.078, _quantize_q4, _dequantize_q4, **_TILE, tile_bytes=Q4_BYTES)
