"""Leaves of TorchOps beside plain tensors: a matrix that stays as it is stored, and a low-rank change over any leaf.

T tokens, r rank. A frozen matrix is never whole in memory as numbers: each product reads blocks of its rows, turns
them into floats, multiplies, and lets them go; the product's gradient does the same again. So a base of any storage
takes the memory of its file's mapped pages, which the system may take back, and of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from octuor.ops.decoded import value_blocks
from octuor.ops.native import NativeOps
from octuor.weights import Weight


class FrozenMatrix:
    """A matrix [out, in] of any storage that does not learn.

    dtype   what products are made in; the stored numbers are read as float32 and rounded to it
    native  whose kernels read the storage
    """

    def __init__(self, weight: Weight, native: NativeOps, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype
        self._native = native

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in]."""
        return self.weight.shape

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The first row and the numbers of each block of rows, in order."""
        if self.dtype == torch.bfloat16:
            for first, rounded in value_blocks(self.weight, self._native.dequantize_bf16):
                yield first, torch.from_numpy(rounded).view(torch.bfloat16)
            return
        for first, values in value_blocks(self.weight, self._native.dequantize):
            yield first, torch.from_numpy(values).to(self.dtype)

    def times(self, x: Tensor) -> Tensor:
        """x [T, in] times the matrix transposed: [T, out]."""
        out = x.new_empty((len(x), self.shape[0]), dtype=self.dtype)
        x = x.to(self.dtype)
        for first, block in self.blocks():
            out[:, first : first + len(block)] = x @ block.T
        return out

    def times_transposed(self, y: Tensor) -> Tensor:
        """y [T, out] times the matrix: [T, in]."""
        total = y.new_zeros((len(y), self.shape[1]), dtype=self.dtype)
        y = y.to(self.dtype)
        for first, block in self.blocks():
            total.addmm_(y[:, first : first + len(block)], block)
        return total

    def rows_of(self, tokens: NDArray[np.int32]) -> Tensor:
        """Rows for tokens [T], as an embedding: [T, in] float32."""
        return torch.from_numpy(self._native.embed(tokens, self._native.put(self.weight)))


@dataclass(frozen=True)
class Adapted:
    """A leaf with a change of low rank that learns: base + scale * b[rows] @ a.

    base     a tensor or a FrozenMatrix, [out, in]
    a, b     [r, in] and [N, r] float32
    rows     those of b that are this leaf's, N >= out where several leaves share a pair
    dropout  share of the inputs of a that are left out, the others made larger; 0 outside training

    Source: Hu et al. 2021, LoRA, arXiv:2106.09685.
    """

    base: Tensor | FrozenMatrix
    a: Tensor
    b: Tensor
    scale: float
    rows: slice
    dropout: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """What the base's product is made in; the change's is float32."""
        return self.base.dtype


@dataclass(frozen=True)
class Layered:
    """A leaf that is a module of its own, as peft's layers are."""

    module: torch.nn.Module

    @property
    def dtype(self) -> torch.dtype:
        """What its product is made in."""
        return next(self.module.parameters()).dtype


class _FrozenProduct(torch.autograd.Function):
    """FrozenMatrix.times with a gradient to x and none to the matrix; keeps neither x nor any of the numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: FrozenMatrix) -> Tensor:
        ctx.matrix, ctx.x_dtype = matrix, x.dtype
        return matrix.times(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.matrix.times_transposed(gradients[0]).to(ctx.x_dtype), None


def product(x: Tensor, leaf: Tensor | FrozenMatrix | Adapted | Layered) -> Tensor:
    """x [T, in] times a leaf [out, in] transposed: [T, out] in the leaf's dtype."""
    if isinstance(leaf, Tensor):
        return F.linear(x.to(leaf.dtype), leaf)
    if isinstance(leaf, Layered):
        through: Tensor = leaf.module(x.to(leaf.dtype))
        return through
    if isinstance(leaf, FrozenMatrix):
        found: Tensor = _FrozenProduct.apply(x, leaf)  # type: ignore[no-untyped-call]
        return found
    whole = product(x, leaf.base)
    inputs = F.dropout(x.float(), leaf.dropout) if leaf.dropout else x.float()
    return whole + (leaf.scale * F.linear(F.linear(inputs, leaf.a), leaf.b[leaf.rows])).to(whole.dtype)
