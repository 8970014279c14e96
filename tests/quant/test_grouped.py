"""The layout of the grouped tiles, followed by hand, and what their search chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octuor.quant import FORMATS
from octuor.quant.grouped import INT8_MAX, LAYOUTS, Grouped, pack, search, unpack
from octuor.quant.int8_exact import GROUP, GROUPS, INPUTS, ROWS
from octuor.quant.plain import from_bf16, to_bf16

EACH = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def gaussian(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@EACH
def test_sizes_are_whole_cache_lines(layout: Grouped) -> None:
    assert len(layout.book) == 2 ** (layout.main_bits + layout.extra_bits)
    assert layout.n_bytes % (4 * 64) == 0
    assert FORMATS[layout.name].bits == layout.main_bits + layout.extra_bits + 0.375


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(LAYOUTS.values())))
@settings(max_examples=30, deadline=None)
def test_pack_round_trip(seed: int, layout: Grouped) -> None:
    rng = np.random.default_rng(seed)
    lead = tuple(rng.integers(1, 3, rng.integers(0, 3)))
    d = to_bf16(rng.standard_normal((*lead, ROWS)).astype(np.float32))
    s = rng.integers(-layout.s_max, layout.s_max + 1, (*lead, ROWS, GROUPS)).astype(np.int8)
    q = rng.choice(layout.book, (*lead, ROWS, INPUTS)).astype(np.int8)
    data = pack(layout, d, s, q)
    assert data.shape == (*lead, layout.n_bytes)
    for found, expected in zip(unpack(layout, data), (from_bf16(d), s, q), strict=True):
        np.testing.assert_array_equal(found, expected)


@EACH
def test_where_a_weight_lies(layout: Grouped) -> None:
    """The layout of grouped.py's docstring, followed by hand to one weight."""
    row, place = 37, 217  # strip 2, row 5 of it; group 13, quad 54
    code = len(layout.book) - 2  # 0 in bit 0, 1 in all others
    d, s = np.zeros(ROWS, np.uint16), np.zeros((ROWS, GROUPS), np.int8)
    q = np.full((ROWS, INPUTS), layout.book[0], np.int8)
    d[row], s[row, place // GROUP], q[row, place] = 0x3F80, -3, layout.book[code]
    data = pack(layout, d, s, q)
    assert data[2 * row : 2 * row + 2].view(np.uint16)[0] == 0x3F80
    signs = data[128:256].view(np.uint16).reshape(4, 16)
    assert signs[2, 13] == 1 << 5
    scales = data[256:768].view(np.uint32).reshape(4, 2, 16)
    assert scales[2, 1, 5] == 13 << 20  # -3 as five bits is 16 * sign + 13
    strip = data[768:].reshape(4, -1)[2]
    n_main = 16 * layout.main_bits
    main, extra = strip[: 32 * n_main].reshape(-1, 16, 4), strip[32 * n_main :].reshape(-1, 16, 4)
    # 4 bits: line 54 // 2, even quad. 2 bits: line 54 // 4, even quad of the second pair.
    assert main[27, 5, 1] == 0b1110 if layout.main_bits == 4 else main[13, 5, 1] == 0b10 << 2
    if layout.extra_bits == 2:  # line 54 // 4, even quad of the second pair
        assert extra[13, 5, 1] == 0b11 << 2
    if layout.extra_bits == 1:  # line 54 // 8, even quad of the fourth pair
        assert extra[6, 5, 1] == 1 << (1 if layout.name == "q3" else 3)
    assert np.count_nonzero(strip) == 1 + (layout.extra_bits > 0)
    dequantized = FORMATS[layout.name].dequantize(data[None, None], (ROWS, INPUTS))
    assert dequantized[row, place] == -3 * layout.book[code]


@EACH
def test_products_are_exact_int8(layout: Grouped) -> None:
    for rows in (gaussian(64, INPUTS), np.float32(1) * np.sign(gaussian(16, INPUTS, seed=1))):
        _, s, q = search(layout, rows)
        assert np.abs(s).max() <= layout.s_max
        assert set(np.unique(q)) <= set(layout.book)
        assert np.abs(np.repeat(s, GROUP, axis=-1).astype(int) * q).max() <= layout.reach <= INT8_MAX


@EACH
def test_the_signed_scale_lets_groups_use_the_farther_codes_on_either_side(layout: Grouped) -> None:
    s = max(s for s in range(1, layout.s_max + 1) if len(layout.book_of(s)) == len(layout.book))
    x = np.zeros((1, INPUTS), np.float32)
    x[0, 0::2], x[0, 1::2] = layout.book[0] * s, layout.book[-1] * s
    row = FORMATS[layout.name]
    for weights in (x, -x):
        error = row.dequantize(row.quantize(weights), x.shape) - weights
        assert np.abs(error).max() < 0.02 * np.abs(x).max()  # D has 8 bits


@EACH
def test_importance_moves_the_error_to_where_it_counts_less(layout: Grouped) -> None:
    x = gaussian(64, INPUTS)
    importance = np.exp(1.5 * gaussian(INPUTS, seed=1))
    row = FORMATS[layout.name]
    plain, weighted, thorough = (
        (importance * np.square(row.dequantize(data, x.shape) - x)).sum()
        for data in (row.quantize(x), row.quantize(x, importance), row.quantize(x, importance, thorough=True))
    )
    assert thorough < weighted < plain
