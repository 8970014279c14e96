"""Every tiled format on every instruction set: as few tokens as many, and numbers at the ends of their ranges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import definitions
from definitions import random, stored
from octuor.ops.native import NativeOps, implementations
from octuor.quant import FORMATS, Format
from octuor.quant.grouped import LAYOUTS, Grouped, pack
from octuor.quant.int8_exact import GROUP, GROUPS, INPUTS, ROWS
from octuor.weights import Weight
from toys import relative_error

FLOAT32 = 4e-6  # sums of up to 600 products in float32, relative to the largest result
ALL = pytest.mark.parametrize("isa", implementations())
TILED = pytest.mark.parametrize("row", [row for row in FORMATS.values() if row.is_tiled], ids=lambda row: row.name)
GROUPED = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@ALL
@TILED
def test_products_of_few_tokens(isa: str, row: Format) -> None:
    ops = NativeOps(isa, threads=1)
    weight = stored(row.name, 70, 515)
    leaf = ops.put(weight)
    x = random(33, 515)
    expected = definitions.linear(x, weight)
    for n_tokens in range(1, 34):
        assert relative_error(ops.linear(x[:n_tokens], leaf), expected[:n_tokens]) < FLOAT32, n_tokens


@ALL
@GROUPED
@pytest.mark.parametrize("n_tokens", [1, 2, 3, 4, 9])
def test_nothing_saturates_at_the_ends_of_all_ranges(isa: str, layout: Grouped, n_tokens: int) -> None:
    """Codes, scales and inputs at their ends, in all mixes of signs that make sums largest: products must be exact."""
    row = FORMATS[layout.name]
    q, s, x = extremes(layout, n_tokens)
    data = pack(layout, np.full(ROWS, 0x3F80, np.uint16), s, q)[None, None]
    weights = np.repeat(s, GROUP, axis=1).astype(np.float64) * q
    np.testing.assert_array_equal(row.dequantize(data, (ROWS, INPUTS)), weights)
    ops = NativeOps(isa, threads=1)
    found = ops.linear(x, ops.put(Weight(data, (ROWS, INPUTS), row)))
    np.testing.assert_array_equal(found, x.astype(np.float64) @ weights.T)  # integers below 2^24


def extremes(layout: Grouped, n_tokens: int) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.float32]]:
    """q [64, 256], s [64, 16] and inputs [T, 256] of -127 and 127 alone, whose codes they are themselves."""
    rng = np.random.default_rng(n_tokens)
    ends = np.array([layout.book[0], layout.book[-1]], dtype=np.int8)
    q = ends[rng.integers(0, 2, (ROWS, INPUTS))]
    q[:8] = layout.book[0]
    q[8:16] = layout.book[-1]
    x = np.where(rng.random((n_tokens, INPUTS)) < 0.5, -127, 127).astype(np.float32)
    x[0] = 127
    q[16:24] = np.where(x[-1] > 0, ends[0], ends[1])  # every product as large as it can be, of one sign
    q[24:32] = np.where(x[-1] > 0, ends[1], ends[0])
    by_four = np.where(np.arange(INPUTS) % 4 < 2, ends[0], ends[1])  # the two halves of a 16-bit sum against each other
    q[32:40] = by_four
    largest = max(s for s in range(1, layout.s_max + 1) if len(layout.book_of(s)) == len(layout.book))
    s = largest * rng.choice(np.array([-1, 1], np.int8), (ROWS, GROUPS))
    return q, s.astype(np.int8), x
