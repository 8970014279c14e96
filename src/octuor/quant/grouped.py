"""The int8-exact formats with groups: q6, q5, q4, q3 and q2.

    weight = D[row, 256 inputs] * s[row, 16 inputs] * q      |s * q| <= 127

q comes from a format's book of codes: consecutive numbers, or, at 3 and 2 bits, unequal steps that fit weights
better. Books are not symmetric, and the sign of s lets each group choose its farther side. A tile's sections:

    D       uint16 [64]           bfloat16 of each row
    signs   uint16 [4, 16]        strip, group; bit i: s of row i is negative
    scales  uint32 [4, 2, 16]     strip, half, row; nibble g: low four bits of s of group 8 * half + g
    codes   of each strip its main plane, then its extra plane, if the format has one

s is two's complement in five bits: nibble - 16 * sign. A plane holds `bits` bits of every code of a strip as lines
of [16 rows, 4 inputs] uint8, each with 8 / bits quads of inputs, in pairs: the even quad lies in the lower four bits of
a byte, the odd one in the upper. Pair p begins at bit bits * p; in q3's extra plane at bit 2, 0, 3, 1, which the main
plane's line leaves free in the same pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Format, ceil_div, relative_importance
from octuor.quant.int8_exact import (
    GROUP,
    GROUPS,
    INPUTS,
    ROWS,
    STRIP,
    STRIPS,
    TILE,
    bf16_up,
    reciprocal,
    tiles,
    untile,
)
from octuor.quant.plain import from_bf16, to_bf16

INT8_MAX = 127
_SECTIONS = (2 * ROWS, 2 * STRIPS * GROUPS, ROWS * GROUPS // 2)  # bytes of D, signs, scales
_SHIFTS = np.arange(0, 32, 4, dtype=np.uint32)


@dataclass(frozen=True)
class Grouped:
    """A format's description, enough to search, pack and unpack.

    s_max       largest |s|
    book        q of each code, rising; as many as the codes of main_bits + extra_bits
    main_bits   lower bits of a code, in the main plane: 2 or 4
    extra_bits  the bits above, in the extra plane: 0, 1 or 2
    extra_at    where the pairs of a line of the extra plane begin
    """

    name: str
    s_max: int
    book: tuple[int, ...]
    main_bits: int
    extra_bits: int = 0
    extra_at: tuple[int, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of a tile."""
        return sum(_SECTIONS) + ROWS * INPUTS * (self.main_bits + self.extra_bits) // 8

    @property
    def main_at(self) -> tuple[int, ...]:
        """Where the pairs of a line of the main plane begin."""
        return tuple(range(0, 4, self.main_bits))

    @property
    def reach(self) -> int:
        """The largest |s * q| there is on the farther side of the book."""
        return max(s * int(np.abs(self.book_of(s)).max()) for s in range(1, self.s_max + 1))

    def book_of(self, s: int) -> NDArray[np.float32]:
        """The part of the book that s may multiply: products pass 127 nowhere."""
        book = np.array(self.book, dtype=np.float32)
        return book[np.abs(book * s) <= INT8_MAX]


LAYOUTS = {
    row.name: row
    for row in (
        Grouped("q6", 4, tuple(range(-32, 32)), 4, 2, (0, 2)),
        Grouped("q5", 8, tuple(range(-16, 16)), 4, 1, (0, 1, 2, 3)),
        Grouped("q4", 15, tuple(range(-8, 8)), 4),
        Grouped("q3", 11, (-11, -7, -4, -2, 0, 2, 5, 8), 2, 1, (2, 0, 3, 1)),
        Grouped("q2", 15, (-8, -3, 1, 5), 2),
    )
}


STARTS = (1.0, 0.8)  # D of a thorough search, as a share of the one that just reaches the largest weight
MOST_FITS = 4


def search(
    layout: Grouped,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32] | None = None,
    *,
    thorough: bool = False,
) -> tuple[NDArray[np.uint16], NDArray[np.int8], NDArray[np.int8]]:
    """Choose D, s and q for blocks of 256 inputs.

    rows        [N, 256] float32
    importance  [N, 256] float32 above 0, of mean about 1: how much each squared error counts; None: all alike
    thorough    begin from each of STARTS and fit D again until that gains nothing
    returns     D [N] bfloat16 as uint16, s [N, 16] int8, q [N, 256] int8 from the book

    D begins where the largest weight is just in reach. Every s is tried for every group, D is fitted by least squares
    to the sums that the chosen s and q make, and every s is tried again.
    """
    w = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, GROUPS, GROUP)
    counts = np.ones_like(w) if importance is None else np.ascontiguousarray(importance).reshape(w.shape)
    reaching = np.abs(w).max((-1, -2)) / np.float32(layout.reach)  # [N]
    d = from_bf16(bf16_up(reaching))
    if thorough:
        least_error = np.full(d.shape, np.inf, dtype=np.float32)
        for start in STARTS:
            tried = from_bf16(to_bf16(from_bf16(bf16_up(reaching)) * np.float32(start)))
            for _ in range(MOST_FITS):
                s, q, error = _choose_codes(layout, w, counts, tried)
                d = np.where(error < least_error, tried, d)
                least_error = np.minimum(error, least_error)
                tried = _fit(w, counts, s, q, tried)
    else:
        s, q, _ = _choose_codes(layout, w, counts, d)
        d = _fit(w, counts, s, q, d)
    s, q, _ = _choose_codes(layout, w, counts, d)
    return to_bf16(d), s.astype(np.int8), q.astype(np.int8).reshape(-1, INPUTS)


def _fit(
    w: NDArray[np.float32],
    counts: NDArray[np.float32],
    s: NDArray[np.float32],
    q: NDArray[np.float32],
    d: NDArray[np.float32],
) -> NDArray[np.float32]:
    """D by least squares for the chosen s and q, as a bfloat16 holds it; d itself where all is 0."""
    exact = s[..., None] * q
    fitted = (counts * w * exact).sum((-1, -2)) * reciprocal((counts * np.square(exact)).sum((-1, -2)))
    return from_bf16(to_bf16(np.where(fitted > 0, fitted, d).astype(np.float32)))


def _choose_codes(
    layout: Grouped, w: NDArray[np.float32], counts: NDArray[np.float32], d: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The best s [N, 16] and q [N, 16, 16] for groups w [N, 16, 16] under d [N], and the error that they leave [N]."""
    s, q = np.zeros(w.shape[:2], dtype=np.float32), np.zeros_like(w)
    least_error = (counts * np.square(w)).sum(-1)
    # A book is never symmetric: where it were, signs would be idle.
    for candidate in (sign * size for size in range(1, layout.s_max + 1) for sign in (1, -1)):
        scale = candidate * d
        codes = _nearest(layout.book_of(candidate), w * reciprocal(scale)[:, None, None])
        error = (counts * np.square(w - scale[:, None, None] * codes)).sum(-1)
        better = error < least_error
        least_error = np.where(better, error, least_error)
        s = np.where(better, np.float32(candidate), s)
        q = np.where(better[..., None], codes, q)
    return s, q, least_error.sum(-1)


def choose_scales(
    layout: Grouped, w: NDArray[np.float32], counts: NDArray[np.float32], d: NDArray[np.float32]
) -> NDArray[np.int8]:
    """The best s [N] for one group of each of N rows, w [N, 16] under d [N], errors counted by counts [16]."""
    each = np.broadcast_to(counts, w.shape)[:, None]
    return _choose_codes(layout, w[:, None], each, d)[0][:, 0].astype(np.int8)


def nearest_codes(layout: Grouped, s: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The q nearest to each x [N], of those that s [N] may multiply."""
    book = np.array(layout.book, dtype=np.float32)
    if len(book) != book[-1] - book[0] + 1:  # every q may be multiplied by every s
        return _nearest(book, x)
    limit = np.floor(INT8_MAX / np.maximum(np.abs(s), 1))
    return np.rint(x).clip(np.maximum(book[0], -limit), np.minimum(book[-1], limit))


def _nearest(book: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(book) == book[-1] - book[0] + 1:
        return np.rint(x).clip(book[0], book[-1])
    places = np.zeros(x.shape, dtype=np.int8)
    for middle in (book[1:] + book[:-1]) / 2:
        places += x > middle
    return book[places]


def pack(layout: Grouped, d: NDArray[np.uint16], s: NDArray[np.int8], q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Lay out tiles: D [..., 64], s [..., 64, 16], q [..., 64, 256] -> uint8 [..., layout.n_bytes]."""
    lead = d.shape[:-1]
    by_strip = s.reshape(*lead, STRIPS, STRIP, GROUPS)
    bits = np.uint16(1) << np.arange(STRIP, dtype=np.uint16)
    signs = ((by_strip < 0) * bits[:, None]).sum(-2).astype(np.uint16)
    nibbles = (by_strip.astype(np.int32) & 15).astype(np.uint32).reshape(*lead, STRIPS, STRIP, 2, 8)
    scales = (nibbles << _SHIFTS).sum(-1).astype(np.uint32).swapaxes(-1, -2)
    codes = np.searchsorted(np.array(layout.book), q).astype(np.uint8)
    planes = [_pack_plane(codes, layout.main_at)]
    if layout.extra_bits:
        planes.append(_pack_plane(codes >> np.uint8(layout.main_bits), layout.extra_at))
    sections = [d, signs, scales, np.concatenate(planes, axis=-1)]
    return np.concatenate([np.ascontiguousarray(x).view(np.uint8).reshape(*lead, -1) for x in sections], axis=-1)


def unpack(layout: Grouped, data: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int8]]:
    """The inverse of pack, with D widened: D [..., 64] float32, s [..., 64, 16], q [..., 64, 256]."""
    lead = data.shape[:-1]
    parts = [np.ascontiguousarray(part) for part in np.split(data, np.cumsum(_SECTIONS), axis=-1)]
    d = from_bf16(parts[0].view(np.uint16))
    signs = parts[1].view(np.uint16).reshape(*lead, STRIPS, 1, GROUPS)
    negative = (signs >> np.arange(STRIP, dtype=np.uint16)[:, None]) & 1
    words = parts[2].view(np.uint32).reshape(*lead, STRIPS, 2, STRIP, 1)
    nibbles = ((words >> _SHIFTS) & 15).swapaxes(-2, -3)
    s = nibbles.reshape(*lead, STRIPS, STRIP, GROUPS).astype(np.int8) - 16 * negative.astype(np.int8)
    strips = parts[3].reshape(*lead, STRIPS, -1)
    main_bytes = STRIP * INPUTS * layout.main_bits // 8
    codes = _unpack_plane(strips[..., :main_bytes], layout.main_at)
    if layout.extra_bits:
        codes = codes | _unpack_plane(strips[..., main_bytes:], layout.extra_at) << np.uint8(layout.main_bits)
    return d, s.reshape(*lead, ROWS, GROUPS), np.array(layout.book, dtype=np.int8)[codes]


def _pack_plane(codes: NDArray[np.uint8], pairs_at: tuple[int, ...]) -> NDArray[np.uint8]:
    """The lowest bits of codes [..., 64, 256], as many as there is room for: a plane of each strip, [..., 4, bytes]."""
    lead, bits = codes.shape[:-2], 4 // len(pairs_at)
    part = codes & np.uint8((1 << bits) - 1)
    lines = part.reshape(*lead, STRIPS, STRIP, -1, len(pairs_at), 2, 4) << _first_bits(pairs_at)
    whole = np.bitwise_or.reduce(lines, axis=(-3, -2))  # [..., strip, row, line, input]
    return np.ascontiguousarray(whole.swapaxes(-2, -3)).reshape(*lead, STRIPS, -1)


def _unpack_plane(plane: NDArray[np.uint8], pairs_at: tuple[int, ...]) -> NDArray[np.uint8]:
    """The inverse of _pack_plane: [..., 4, bytes] -> [..., 64, 256]."""
    lead, bits = plane.shape[:-2], 4 // len(pairs_at)
    lines = plane.reshape(*lead, STRIPS, -1, STRIP, 4).swapaxes(-2, -3)[..., None, None, :]
    part = (lines >> _first_bits(pairs_at)) & np.uint8((1 << bits) - 1)  # [..., strip, row, line, pair, odd, input]
    return part.reshape(*lead, ROWS, INPUTS)


def _first_bits(pairs_at: tuple[int, ...]) -> NDArray[np.uint8]:
    """[pairs, 2, 1]: of each pair's even and odd quad."""
    return np.array([[[at], [at + 4]] for at in pairs_at], dtype=np.uint8)


def _by_row(importance: NDArray[np.float32], out: int, inputs: int) -> NDArray[np.float32]:
    """Importance [in] for each row of the tiles of a matrix, [N, 256]; 1 beyond its edge."""
    padded = np.ones(ceil_div(inputs, INPUTS) * INPUTS, dtype=np.float32)
    padded[:inputs] = relative_importance(importance, inputs)
    each = np.broadcast_to(padded.reshape(1, -1, 1, INPUTS), (ceil_div(out, ROWS), len(padded) // INPUTS, ROWS, INPUTS))
    return each.reshape(-1, INPUTS)


def _format(layout: Grouped, error: float) -> Format:
    def quantize(
        x: NDArray[np.float32], importance: NDArray[np.float32] | None = None, *, thorough: bool = False
    ) -> Array:
        cut = tiles(x)
        lead = cut.shape[:2]
        counts = None if importance is None else _by_row(importance, *x.shape)
        d, s, q = search(layout, cut.reshape(-1, INPUTS), counts, thorough=thorough)
        return pack(layout, d.reshape(*lead, ROWS), s.reshape(*lead, ROWS, GROUPS), q.reshape(*lead, ROWS, INPUTS))

    def dequantize(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
        d, s, q = unpack(layout, data)
        return untile(np.repeat(s, GROUP, axis=-1).astype(np.float32) * q * d[..., None], shape)

    return Format(layout.name, np.dtype(np.uint8), "U8", error, quantize, dequantize, *TILE, tile_bytes=layout.n_bytes)


Q6 = _format(LAYOUTS["q6"], 0.024)
Q5 = _format(LAYOUTS["q5"], 0.043)
Q4 = _format(LAYOUTS["q4"], 0.078)
Q3 = _format(LAYOUTS["q3"], 0.146)
Q2 = _format(LAYOUTS["q2"], 0.29)
