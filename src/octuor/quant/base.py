"""How a matrix of weights is stored: what a Weight asks of any storage, and the formats that packs are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octuor.errors import FormatError

Array = NDArray[Any]
Parts = Mapping[str, Array]  # what a storage keeps beside its main array, such as scales and zeros


class Storage(Protocol):
    """How a weight's numbers lie, in a format of ours or another program's: enough to check, cut and read them."""

    @property
    def name(self) -> str:
        """In lower case, as tables and errors print it: "q4", "gguf-q4_k", "gptq-4"."""

    @property
    def row_multiple(self) -> int:
        """A weight may be cut between rows at multiples of this."""

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """What is wrong with the arrays for a weight of this shape, as "expected ..., found ..."; None: nothing."""

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """The arrays of rows start to stop, views where they can be; start is a multiple of row_multiple."""

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The numbers, as the format's own program has them."""


class Quantizer(Protocol):
    """Plain weights to a format's storage, such as Format.quantize or NativeOps.quantize with a format."""

    def __call__(
        self, x: NDArray[np.float32], importance: NDArray[np.float32] | None = None, *, thorough: bool = False
    ) -> Array:
        """The storage of x [out, in] with the least error found.

        importance  [in] float32, how much the squared error of each input's weights counts, best the input's mean
                    square over a text; None: all alike. Plain formats have no choice and ignore it
        thorough    search longer for a slightly smaller error
        """


IMPORTANCE_FLOOR = 1e-6  # relative to the mean: where nothing was seen, weights are rounded as if it might be


def relative_importance(importance: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    """Importance [in] as searches take it: float32 of mean 1, none under IMPORTANCE_FLOOR; ones where all are 0.

    Raises FormatError where it is not [in], or holds a negative number, an infinity or NaN.
    """
    if importance.shape != (inputs,):
        raise FormatError(f"importance: expected one number for each of {inputs} inputs, found {importance.shape}")
    if not (usable := np.isfinite(importance) & (importance >= 0)).all():
        place = int(np.argmin(usable))
        raise FormatError(
            f"importance: expected finite numbers from 0 up, found {importance[place]} for input {place}; "
            "quantize without it where activations overflow"
        )
    mean = importance.mean(dtype=np.float64)
    if mean == 0:
        return np.ones(inputs, dtype=np.float32)
    return np.maximum(importance / mean, IMPORTANCE_FLOOR).astype(np.float32)


def ceil_div(a: int, b: int) -> int:
    """The least n with n * b >= a."""
    return -(-a // b)


@dataclass(frozen=True)
class Format:
    """A row of the table of formats that Octuor writes; a Storage without parts.

    Plain formats store a matrix [out, in] as it is, or, where a file has its rows in another order, as a view
    [a, b, c, in] whose leading axes, read in row order, are the rows. Tiled formats cut it into tiles of
    tile_rows x tile_inputs weights, padded with zeros at the edges, each tile_bytes long, tiles of one row side
    by side: storage [ceil(out / tile_rows), ceil(in / tile_inputs), tile_bytes] uint8.

    safetensors  dtype name in a safetensors header
    error        bound on the root-mean-square error of Gaussian weights, relative to their own
    quantize     float32 [out, in] -> storage, as in Quantizer
    dequantize   storage, shape -> float32 of that shape
    """

    name: str
    dtype: np.dtype[Any]
    safetensors: str
    error: float
    quantize: Quantizer
    dequantize: Callable[[Array, tuple[int, ...]], NDArray[np.float32]]
    tile_rows: int = 1
    tile_inputs: int = 1
    tile_bytes: int = 0

    @property
    def is_tiled(self) -> bool:
        """Whether the format stores blocks of rows and inputs and so takes matrices only."""
        return self.tile_bytes > 0

    @property
    def is_by_rows(self) -> bool:
        """Whether each row is a line of blocks by itself, as other programs have them, instead of a part of tiles."""
        return self.is_tiled and self.tile_rows == 1

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape can be stored: only matrices have tiles, and rows of blocks no padding."""
        return not self.is_tiled or (len(shape) == 2 and not (self.is_by_rows and shape[1] % self.tile_inputs))

    @property
    def row_multiple(self) -> int:
        """Rows that lie together."""
        return self.tile_rows

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

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        expected = self.storage_shape(shape)
        if not self.is_tiled and data.ndim == 4 and len(shape) == 2:  # rows that a file has in another order
            expected = (*data.shape[:3], shape[1]) if prod(data.shape[:3]) == shape[0] else expected
        if tuple(data.shape) == expected and data.dtype == self.dtype and not parts:
            return None
        return f"expected {self.dtype} {list(expected)}, found {data.dtype} {list(data.shape)}"

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage; a copy where the file has the rows in another order."""
        if data.ndim == 4:
            return data[np.unravel_index(np.arange(start, stop), data.shape[:3])], parts
        return data[start // self.tile_rows : ceil_div(stop, self.tile_rows)], parts

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:  # noqa: ARG002
        """As in Storage."""
        return self.dequantize(data, shape)
