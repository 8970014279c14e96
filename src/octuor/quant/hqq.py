"""HQQ (half-quadratic quantization): codes of 8 to 1 bits with a zero and a scale for each group.

A matrix [out, in] is read flat as a grid of R x C numbers:

    axis 1    C = group_size: a group is a row of the grid       zero and scale [R, 1]
    axis 0    R = group_size: a group is a column of the grid    zero and scale [1, C]

without a group size the grid is the matrix. The grid's codes are packed by blocks of its rows, not by neighbours: with
n codes to an element, block k is rows k * step to (k + 1) * step, step = ceil(R / n), and lies (n - 1 - k) codes up in
the elements of an array [step, C]. 3 bits go ten to an int32, the others 8 / bits to a byte.

    weight = (code - zero) * scale      each step rounded to the compute dtype

Older files quantize zeros and scales once more, in the same way.

Source: hqq, core/quantize.py and core/bitpack.py (0.1.8, 0.2.8)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, ceil_div
from octuor.quant.plain import from_bf16, rounded

PACKED_BITS = {8: 8, 6: 8, 5: 8, 4: 4, 3: 3, 2: 2, 1.58: 2, 1: 1}  # bits of a format -> bits that a code takes
PLAIN = (np.float32, np.float16, np.uint16)  # what zeros and scales are stored as; uint16: bfloat16
F32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Hqq:
    """Codes as stored: data uint8 or (3 bits) int32 [step, C].

    bits        of the format, a key of PACKED_BITS
    shape       of the matrix that was quantized; a weight may be some of its rows
    axis        0 or 1
    group_size  None: the grid is the matrix
    dtype       "f32", "f16" or "bf16", what zero, scale and every step are rounded to
    zero        how zeros are quantized; None: they are plain
    scale       how scales are

    Parts: zero and scale, plain, [R, 1] or [1, C], or [] for one group of all. Where they are quantized: zero.data and
    its own zero.zero and zero.scale, plain, instead. Rows cut from a matrix keep all of its arrays, and `first_row`
    int64 [1].
    """

    bits: float
    shape: tuple[int, int]
    axis: int
    group_size: int | None
    dtype: str
    zero: Hqq | None = None
    scale: Hqq | None = None

    @property
    def name(self) -> str:
        """As in Storage."""
        return f"hqq-{self.bits:g}"

    @property
    def row_multiple(self) -> int:
        """As in Storage."""
        return 1

    @property
    def grid(self) -> tuple[int, int]:
        """R and C."""
        size = prod(self.shape)
        if self.group_size is None:
            return self.shape
        other = size // self.group_size
        return (other, self.group_size) if self.axis == 1 else (self.group_size, other)

    @property
    def n_packed(self) -> int:
        """Codes in an element."""
        return 10 if PACKED_BITS[self.bits] == 3 else 8 // PACKED_BITS[self.bits]

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        first = int(parts["first_row"][0]) if "first_row" in parts else 0
        if len(shape) != 2 or shape[1] != self.shape[1] or not 0 <= first <= self.shape[0] - shape[0]:
            return f"expected rows of {list(self.shape)}, found {list(shape)} from row {first} on"
        if self.group_size is not None and (self.group_size < 1 or prod(self.shape) % self.group_size):
            return f"expected groups of {self.group_size} in {list(self.shape)}, found a rest"
        r, c = self.grid
        if self.n_packed != 10 and r % self.n_packed:
            return f"expected a multiple of {self.n_packed} rows to pack, found {r}"
        wanted, dtype = [ceil_div(r, self.n_packed), c], np.int32 if self.n_packed == 10 else np.uint8
        if list(data.shape) != wanted or data.dtype != dtype:
            return f"expected {np.dtype(dtype)} {wanted}, found {data.dtype} {list(data.shape)}"
        return self._part_mismatch("zero", self.zero, parts) or self._part_mismatch("scale", self.scale, parts)

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:  # noqa: ARG002
        """As in Storage: all arrays as they are, for rows do not lie together in them."""
        first = parts.get("first_row", np.zeros(1, np.int64))
        return data, dict(parts) | {"first_row": first + start}

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> F32Array:
        """As in Storage: hqq's Quantizer.dequantize in the compute dtype, bit for bit. Unpacks no more than it must."""
        begin = int(parts["first_row"][0]) * shape[1] if "first_row" in parts else 0
        end = begin + prod(shape)
        c = self.grid[1]
        top, bottom = begin // c, ceil_div(end, c)
        zero, scale = self.of_groups("zero", parts), self.of_groups("scale", parts)
        if len(zero) > 1:
            zero = zero[top:bottom]
        if len(scale) > 1:
            scale = scale[top:bottom]
        numbers = self._codes(data, top, bottom)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are looked for by who reads them
            numbers -= zero
            numbers = rounded(numbers, self.dtype)
            numbers *= scale
            numbers = rounded(numbers, self.dtype)
        return numbers.reshape(-1)[begin - top * c : end - top * c].reshape(shape)

    def _codes(self, data: Array, top: int, bottom: int) -> F32Array:
        """Rows top to bottom of the grid's codes, as float32."""
        step, bits = len(data), PACKED_BITS[self.bits]
        codes = np.empty((bottom - top, data.shape[1]), dtype=np.float32)
        for block in range(top // step, ceil_div(bottom, step)):
            first, last = max(top, block * step), min(bottom, (block + 1) * step)
            packed = data[first - block * step : last - block * step]
            shift = bits * (self.n_packed - 1 - block)
            codes[first - top : last - top] = (packed >> shift) & ((1 << bits) - 1)
        return codes

    def of_groups(self, name: str, parts: Parts) -> F32Array:
        """Zeros or scales ("zero" or "scale") as the computation has them, [R, 1], [1, C] or [1, 1]."""
        nested = self.zero if name == "zero" else self.scale
        if nested is not None:
            below = {part: parts[f"{name}.{part}"] for part in ("zero", "scale")}
            return nested.to_f32(parts[f"{name}.data"], below, nested.shape)
        stored = parts[name]
        numbers = from_bf16(stored) if stored.dtype == np.uint16 else stored.astype(np.float32)
        return rounded(numbers.reshape(stored.shape or (1, 1)), self.dtype)

    def _part_mismatch(self, name: str, nested: Hqq | None, parts: Parts) -> str | None:
        r, c = self.grid
        of_groups = (r, 1) if self.axis == 1 else (1, c)
        if nested is not None:
            names = [f"{name}.{part}" for part in ("data", "zero", "scale")]
            if nested.shape != of_groups or any(part not in parts for part in names):
                return f"expected {name} quantized from {list(of_groups)} with its zero and scale, found otherwise"
            below = {"zero": parts[names[1]], "scale": parts[names[2]]}
            wrong = nested.mismatch(parts[names[0]], below, of_groups)
            return None if wrong is None else f"{name}: {wrong}"
        part = parts.get(name)
        if part is None or part.dtype not in PLAIN or part.shape not in (of_groups, ()):
            found = "none" if part is None else f"{part.dtype} {list(part.shape)}"
            return f"expected {name} as f32, f16 or bf16 {list(of_groups)}, found {found}"
        return None
