"""A matrix as it is stored, and a change of low rank that is added where its numbers are read.

r rank. What a merged adapter is until a weight is written anew: nothing is held but the stored matrix, a and b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Parts, Storage

A, B = "change_a", "change_b"


@dataclass(frozen=True)
class Changed:
    """base's numbers + scale * b @ a: parts change_a [r, in] and change_b [out, r] float32 beside those of base.

    Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1
    """

    base: Storage
    scale: float

    @property
    def name(self) -> str:
        """As in Storage."""
        return f"{self.base.name} and a change"

    @property
    def row_multiple(self) -> int:
        """As in Storage."""
        return self.base.row_multiple

    def mismatch(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> str | None:
        """As in Storage."""
        a, b = parts[A], parts[B]
        if len(shape) != 2 or a.shape[1:] != shape[1:] or b.shape != (shape[0], len(a)):
            return f"expected a change of {list(shape)}, found a {list(a.shape)} and b {list(b.shape)}"
        return self.base.mismatch(data, _others(parts), shape)

    def rows(self, data: Array, parts: Parts, start: int, stop: int) -> tuple[Array, Parts]:
        """As in Storage."""
        data, others = self.base.rows(data, _others(parts), start, stop)
        return data, {**others, A: parts[A], B: parts[B][start:stop]}

    def to_f32(self, data: Array, parts: Parts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As in Storage; a new array."""
        change: NDArray[np.float32] = parts[B] @ parts[A]
        change *= np.float32(self.scale)
        change += self.base.to_f32(data, _others(parts), shape)
        return change


def _others(parts: Parts) -> Mapping[str, Array]:
    return {name: part for name, part in parts.items() if name not in (A, B)}
