"""Packed codes and group scales, against packing bit by bit and plain arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.errors import FormatError
from octuor.quant.packing import round_as, scale_blocks, scale_groups, unpack_bits, widen, wrong_array
from packed import as_scales, pack, times


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 8, 31, 32, 33, 96])
def test_codes_come_out_as_they_went_in(bits: int, n: int) -> None:
    codes = np.random.default_rng([bits, n]).integers(0, 1 << bits, (3, n))
    words = pack(codes, bits)
    np.testing.assert_array_equal(unpack_bits(words, bits, n), codes)
    np.testing.assert_array_equal(unpack_bits(np.asfortranarray(words), bits, n), codes)


@pytest.mark.parametrize("dtype", ["float16", "bf16", "float32"])
@pytest.mark.parametrize("group_size", [4, 5, 12, 100])
def test_groups_are_scaled_and_rounded_once(dtype: str, group_size: int) -> None:
    rng = np.random.default_rng(1)
    codes, groups = rng.integers(0, 256, (6, 12)), np.arange(12) // group_size
    n_groups = int(groups.max()) + 1
    zeros, scales = rng.integers(0, 256, (6, n_groups)), as_scales(rng.uniform(0.1, 1, (6, n_groups)), dtype)
    expected = times(codes - zeros[:, groups], scales[:, groups])
    np.testing.assert_array_equal(scale_groups(codes, zeros, scales, group_size, None), expected)
    np.testing.assert_array_equal(scale_groups(codes, zeros, scales, group_size, groups), expected)
    turned = groups[::-1].copy()
    expected = times(codes - zeros[:, turned], scales[:, turned])
    np.testing.assert_array_equal(scale_groups(codes, zeros, scales, group_size, turned), expected)


@pytest.mark.parametrize("groups", [[0, 1, 2, 0], [0, 0, -1, 1], [2**31 - 1] * 4])
def test_groups_that_are_not_there_are_refused(groups: list[int]) -> None:
    codes, scales = np.zeros((2, 4), np.uint8), np.ones((2, 2), np.float16)
    with pytest.raises(FormatError, match="g_idx: expected groups from 0 to 1, found"):
        scale_groups(codes, None, scales, 2, np.array(groups, np.int32))


@pytest.mark.parametrize("dtype", ["float16", "bf16", "float32"])
@pytest.mark.parametrize(("block", "grid"), [((1, 7), (5, 1)), ((5, 7), (1, 1)), ((2, 3), (3, 3)), ((1, 4), (5, 2))])
def test_blocks_are_scaled_and_rounded_once(dtype: str, block: tuple[int, int], grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    codes, scales = rng.integers(-127, 128, (5, 7)), as_scales(rng.uniform(0.1, 1, grid), dtype)
    spread = scales.repeat(block[0], 0)[:5].repeat(block[1], 1)[:, :7]
    np.testing.assert_array_equal(scale_blocks(codes.astype(np.float32), scales, block), times(codes, spread))


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_rounding_by_bits_is_rounding(dtype: type) -> None:
    """Every scale that is rounded by its bits, and those that are not, times codes of either sign."""
    scales: NDArray[Any] = np.arange(65536, dtype=np.uint16).view(dtype)[:, None]
    with np.errstate(all="ignore"):
        wide = widen(scales)
        is_tame = ((np.abs(wide) >= 2.0**-14) & (np.abs(wide) <= 255))[:, 0]
        for part in (scales[is_tame], scales[~is_tame]):
            codes = np.broadcast_to(np.array([[0, 1, 7, 85, 200, 255]]), (len(part), 6))
            for zero in (0, 255):
                found = scale_groups(codes, np.full((len(part), 1), zero), part, 6, None)
                np.testing.assert_array_equal(found, round_as((codes - zero) * widen(part), scales.dtype))


def test_infinities_pass_quietly() -> None:
    scales = np.array([[np.inf, np.nan, 6e4]], np.float16)
    found = scale_groups(np.array([[0, 1, 15]]), None, scales, 1, None)
    np.testing.assert_array_equal(found, [[np.nan, np.nan, np.inf]])
    assert np.isinf(round_as(np.array([1e6], np.float32), np.dtype(np.float16))).all()


def test_scales_are_widened_exactly() -> None:
    for dtype in ("float16", "bf16", "float32"):
        np.testing.assert_array_equal(widen(as_scales(np.array([0.5, -2, 1.5]), dtype)), [0.5, -2, 1.5])


def test_arrays_are_described() -> None:
    half = [np.dtype(np.float16)]
    assert wrong_array("scales", np.ones((2, 3), np.float16), half, (2, 3)) is None
    found = wrong_array("scales", np.ones((2, 3), np.float32), half, (2, 4))
    assert found == "scales: expected float16 [2, 4], found float32 [2, 3]"
    assert wrong_array("qzeros", None, half, (1,)) == "qzeros: expected float16 [1], found none"
