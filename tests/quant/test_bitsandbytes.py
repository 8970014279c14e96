"""bitsandbytes' storages against their definitions, number by number, whole and cut between rows."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.quant.bitsandbytes import BitsAndBytes4, BitsAndBytes8
from octuor.weights import Weight

ROUNDED = {"f32": np.float32, "f16": np.float16}


def four_bit_weight(
    out: int, inputs: int, block_size: int, dtype: str, nested: int | None, seed: int = 0
) -> tuple[Weight, np.ndarray]:
    """A weight of random parts, and what each of its numbers is."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, out * inputs)
    blocks = -(-codes.size // block_size)
    parts = {"quant_map": np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)}
    if nested is None:
        absmax = parts["absmax"] = rng.uniform(0.1, 3, blocks).astype(np.float32)
    else:
        parts["absmax"] = rng.integers(0, 256, blocks).astype(np.uint8)
        parts["nested_absmax"] = rng.uniform(0.1, 3, -(-blocks // nested)).astype(np.float32)
        parts["nested_quant_map"] = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
        parts["nested_offset"] = np.array([1.5], np.float32)
        absmax = np.array([
            parts["nested_quant_map"][byte] * parts["nested_absmax"][b // nested] + parts["nested_offset"][0]
            for b, byte in enumerate(parts["absmax"])
        ])  # fmt: skip
    values = [parts["quant_map"][code] * absmax[i // block_size] for i, code in enumerate(codes)]
    data = (codes[0::2] << 4 | codes[1::2]).astype(np.uint8).reshape(out, inputs // 2)
    weight = Weight(data, (out, inputs), BitsAndBytes4("nf4", block_size, dtype, nested), "w", parts)
    return weight, np.array(values, ROUNDED[dtype]).astype(np.float32).reshape(out, inputs)


@pytest.mark.parametrize("nested", [None, 3, 256])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize(("shape", "block_size"), [((5, 64), 64), ((7, 96), 64), ((6, 10), 32), ((3, 256), 4096)])
def test_four_bits_are_their_definition(
    shape: tuple[int, int], block_size: int, dtype: str, nested: int | None
) -> None:
    weight, expected = four_bit_weight(*shape, block_size, dtype, nested)
    assert np.array_equal(weight.to_f32(), expected)


@pytest.mark.parametrize("nested", [None, 2])
def test_rows_of_four_bits_are_those_of_the_whole_and_views(nested: int | None) -> None:
    weight, expected = four_bit_weight(9, 40, 64, "f32", nested)
    for start in range(9):
        for stop in range(start + 1, 10):
            rows = weight.rows(start, stop)
            assert np.array_equal(rows.to_f32(), expected[start:stop]), (start, stop)
            assert np.shares_memory(rows.data, weight.data)
            again = rows.rows(0, stop - start).rows(stop - start - 1, stop - start)
            assert np.array_equal(again.to_f32(), expected[stop - 1 : stop])


def test_int8_rows_are_their_definition() -> None:
    rng = np.random.default_rng(1)
    data = rng.integers(-127, 128, (6, 10)).astype(np.int8)
    scales = rng.uniform(0.1, 3, 6).astype(np.float32)
    weight = Weight(data, (6, 10), BitsAndBytes8(), "w", {"SCB": scales})
    expected = [
        [np.float32(np.float32(x) * scale) * np.float32(1 / 127) for x in row]
        for row, scale in zip(data, scales, strict=True)
    ]
    assert np.array_equal(weight.to_f32(), np.array(expected, np.float32))
    assert np.array_equal(weight.rows(2, 5).to_f32(), np.array(expected, np.float32)[2:5])
