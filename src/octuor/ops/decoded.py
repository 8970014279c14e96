"""Weights of any storage as plain numbers in memory: for what a backend has no kernels for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from octuor.quant import BF16, F16, F32, Format
from octuor.quant.plain import from_bf16
from octuor.weights import Weight

Number = TypeVar("Number", bound=np.generic)
CHUNK_WEIGHTS = 4 << 20  # at work at once: 16 MiB as float32


def decoded(weight: Weight) -> Weight:
    """The weight in the first of bf16, f16 and f32 that keeps each of its values, in memory of its own."""
    if weight.format in (BF16, F16, F32):
        return weight
    for row in (BF16, F16):
        data = _exact(weight, row)
        if data is not None:
            return Weight(data, weight.shape, row, weight.name)
    data = np.empty(weight.shape, dtype=np.float32)
    for first, block in value_blocks(weight, Weight.to_f32):
        data[first : first + len(block)] = block
    return Weight(data, weight.shape, F32, weight.name)


def _exact(weight: Weight, row: Format) -> NDArray[np.generic] | None:
    """The weight's storage in a narrower format; None where a value would change."""
    data = np.empty(weight.shape, dtype=row.dtype)
    for first, block in value_blocks(weight, Weight.to_f32):
        with np.errstate(over="ignore"):  # seen below
            narrow = row.quantize(block)
        wide = from_bf16(narrow) if row == BF16 else narrow.astype(np.float32)
        if not np.array_equal(wide, block, equal_nan=True):
            return None
        data[first : first + len(block)] = narrow
    return data


def value_blocks(
    weight: Weight, dequantize: Callable[[Weight], NDArray[Number]]
) -> Iterator[tuple[int, NDArray[Number]]]:
    """The first row and the values of each block of rows, in order; dequantize: Weight.to_f32 or its like."""
    n_rows, *inputs = weight.shape
    multiple = weight.format.row_multiple
    step = max(CHUNK_WEIGHTS // max(inputs[0] if inputs else 1, 1) // multiple, 1) * multiple
    for first in range(0, n_rows, step):
        yield first, dequantize(weight.rows(first, min(first + step, n_rows)))
