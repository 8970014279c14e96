"""Operations of TorchOps whose derivatives are written out, for what autograd makes of them reads memory many times.

T tokens, A experts a token, D dim. `places` [T, A] says in which of T * A rows, grouped by expert, a token's a-th
expert has it; every row is in it once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RmsNorm(torch.autograd.Function):
    """x [T, D] / rms(x) * weight [D], float32. Source: Zhang & Sennrich 2019, arXiv:1910.07467."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, scale, weight = ctx.saved_tensors
        (slope,) = gradients
        d_weight = (slope * normed).sum(0) if ctx.needs_input_grad[1] else None
        d_normed = slope * weight
        along = torch.einsum("td,td->t", d_normed, normed)[:, None] / normed.shape[-1]
        return d_normed.addcmul_(along, normed, value=-1).mul_(scale), d_weight, None


class SpreadRows(torch.autograd.Function):
    """x [T, D] -> [T * A, D]: each token's row at its places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x[tokens]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        (slope,) = gradients
        total = slope[places[:, 0]].float()
        for a in range(1, places.shape[1]):
            total += slope[places[:, a]]
        return total.to(slope.dtype), None, None


class GatherRows(torch.autograd.Function):
    """rows [T * A, D], weights [T, A] float32 -> [T, D] float32: the sum of each token's rows by their weights."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, places)
        total = rows[places[:, 0]] * weights[:, :1]
        for a in range(1, places.shape[1]):
            total += rows[places[:, a]] * weights[:, a : a + 1]
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weights, places = ctx.saved_tensors
        (slope,) = gradients
        d_rows, d_weights = torch.empty_like(rows), torch.empty_like(weights)
        for a in range(places.shape[1]):
            at = places[:, a]
            d_rows[at] = (slope * weights[:, a : a + 1]).to(rows.dtype)
            d_weights[:, a] = (slope * rows[at]).sum(-1)
        return d_rows, d_weights, None
