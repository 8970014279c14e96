"""HQQ's storage against its definition, in NumPy's own half precision, whole and cut between rows."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.quant.hqq import PACKED_BITS, Hqq
from octuor.weights import Weight

CASES = [(bits, axis, group) for bits, axis, group in product((8, 4, 3, 2, 1), (0, 1), (8, 24))] + [
    (4, 1, None),
    (3, 0, None),
]
SHAPE = (16, 12)


def pack(codes: NDArray[np.int64], bits: int) -> NDArray[np.generic]:
    """Blocks of the grid's rows over each other, the first in the highest bits."""
    n = 10 if bits == 3 else 8 // bits
    blocks = np.split(np.pad(codes, ((0, -len(codes) % n), (0, 0))), n)
    packed = sum(block << (bits * (n - 1 - k)) for k, block in enumerate(blocks))
    return np.asarray(packed).astype(np.int32 if bits == 3 else np.uint8)


def hqq_weight(bits: int, axis: int, group: int | None, dtype: str = "f16") -> tuple[Weight, NDArray[np.float32]]:
    """A weight of random codes, zeros and scales, and what each of its numbers is."""
    rng = np.random.default_rng(bits)
    size = prod(SHAPE)
    grid = SHAPE if group is None else (size // group, group) if axis else (group, size // group)
    codes = rng.integers(0, 1 << bits, grid)
    of_groups = (grid[0], 1) if axis else (1, grid[1])
    number = {"f16": np.float16, "f32": np.float32}[dtype]
    zero = rng.uniform(0, 1 << bits, of_groups).astype(number)
    scale = rng.uniform(0.01, 0.1, of_groups).astype(number)
    weight = Weight(pack(codes, bits), SHAPE, Hqq(bits, SHAPE, axis, group, dtype), "w", {"zero": zero, "scale": scale})
    return weight, ((codes.astype(number) - zero) * scale).astype(np.float32).reshape(SHAPE)


@pytest.mark.parametrize(("bits", "axis", "group"), CASES)
def test_weights_are_their_definition(bits: int, axis: int, group: int | None) -> None:
    weight, expected = hqq_weight(bits, axis, group)
    assert np.array_equal(weight.to_f32(), expected)


@pytest.mark.parametrize(("bits", "axis", "group"), CASES)
def test_rows_are_those_of_the_whole(bits: int, axis: int, group: int | None) -> None:
    weight, expected = hqq_weight(bits, axis, group, "f32")
    for start, stop in ((0, 1), (3, 4), (2, 9), (7, 16), (0, 16)):
        rows = weight.rows(start, stop)
        assert np.array_equal(rows.to_f32(), expected[start:stop])
        assert np.array_equal(rows.rows(stop - start - 1, stop - start).to_f32(), expected[stop - 1 : stop])
        assert rows.data is weight.data


def test_zeros_and_scales_may_be_quantized_themselves() -> None:
    weight, _ = hqq_weight(4, 1, 8)
    r = weight.data.shape[0] * 2
    rng = np.random.default_rng(3)
    zero_codes, scale_codes = rng.integers(0, 256, (r, 1)), rng.integers(0, 256, (r, 1))
    one = {"zero": np.array(3, np.float16), "scale": np.array(0.125, np.float16)}  # one group of all
    many = {"zero": np.full((1, r // 8), 10, np.float16), "scale": np.full((1, r // 8), 0.5, np.float16)}
    storage = Hqq(4, SHAPE, 1, 8, "f16", zero=Hqq(8, (r, 1), 1, None, "f16"), scale=Hqq(8, (r, 1), 0, 8, "f16"))
    parts = {"zero.data": zero_codes.astype(np.uint8)} | {f"zero.{name}": x for name, x in one.items()}
    parts |= {"scale.data": scale_codes.reshape(8, -1).astype(np.uint8)} | {
        f"scale.{name}": x for name, x in many.items()
    }
    nested = Weight(weight.data, SHAPE, storage, "w", parts)
    zero = (zero_codes.astype(np.float16) - np.float16(3)) * np.float16(0.125)
    scale = (scale_codes.astype(np.float16) - np.float16(10)) * np.float16(0.5)
    codes = np.concatenate([weight.data >> 4, weight.data & 15]).astype(np.float16)
    expected = ((codes - zero) * scale).astype(np.float32).reshape(SHAPE)
    assert np.array_equal(nested.to_f32(), expected)
    assert np.array_equal(nested.rows(5, 11).to_f32(), expected[5:11])


def test_every_number_of_bits_fits_what_it_is_packed_in() -> None:
    assert all(2**bits <= 2**packed for bits, packed in PACKED_BITS.items())
