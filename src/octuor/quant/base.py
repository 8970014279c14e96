"""A number format: how a matrix of weights is stored, and what that costs in bits and error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def ceil_div(a: int, b: int) -> int:
    """The least n with n * b >= a."""
    return -(-a // b)


@dataclass(frozen=True)
class Format:
    """A row of the table of formats.

    Plain formats store a matrix [out, in] as it is. Tiled formats cut it into tiles of tile_rows x
    tile_inputs weights, padded with zeros at the edges, each tile_bytes long, tiles of one row of tiles
    side by side: storage [ceil(out / tile_rows), ceil(in / tile_inputs), tile_bytes] uint8.

    safetensors  dtype name in a safetensors header
    error        bound on the root-mean-square error of Gaussian weights, relative to their own
    quantize     float32 [out, in] -> storage
    dequantize   storage, shape -> float32 of that shape
    """

    name: str
    dtype: np.dtype[Any]
    safetensors: str
    error: float
    quantize: Callable[[NDArray[np.float32]], Array]
    dequantize: Callable[[Array, tuple[int, ...]], NDArray[np.float32]]
    tile_rows: int = 1
    tile_inputs: int = 1
    tile_bytes: int = 0

    @property
    def is_tiled(self) -> bool:
        """Whether the format stores blocks of rows and inputs and so takes matrices only."""
        return self.tile_bytes > 0

    @property
    def bits(self) -> float:
        """Bits a weight."""
        if self.is_tiled:
            return 8 * self.tile_bytes / (self.tile_rows * self.tile_inputs)
        return 8.0 * self.dtype.itemsize

    def storage_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored array of a weight of `shape`."""
        if not self.is_tiled:
            return shape
        out, inputs = shape
        return ceil_div(out, self.tile_rows), ceil_div(inputs, self.tile_inputs), self.tile_bytes

    def n_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a weight of `shape` takes."""
        return int(np.prod(self.storage_shape(shape), dtype=np.int64)) * self.dtype.itemsize
