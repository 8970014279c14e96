"""Muon, which moves a matrix by its momentum with all singular values made about one.

torch's own computes in bfloat16, matrix by matrix: a CPU without bfloat16 takes a hundred times as long as for this.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the step's size is Liu et al. 2025's, arXiv:2502.16982,
so that the rate that suits AdamW suits it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the odd polynomial that a round applies to the singular values
LARGEST_STACK = 32  # matrices at once: 16 MB of float32 at 256 x 512


class Muon(torch.optim.Optimizer):
    """For matrices [out, in] float32; those of a shape are worked on together.

    dtype  of the products: bfloat16 is enough
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, weight_decay: float, dtype: torch.dtype, momentum: float = 0.95
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._dtype = dtype

    def step(self) -> None:  # type: ignore[override]
        """Move each matrix; Nesterov's momentum, decoupled decay."""
        with torch.no_grad():
            for group in self.param_groups:
                self._move(group)

    def _move(self, group: dict[str, Any]) -> None:
        shaped: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in group["params"]:
            shaped[matrix.shape].append(matrix)
        for shape, matrices in shaped.items():
            size = group["lr"] * 0.2 * max(shape) ** 0.5
            for start in range(0, len(matrices), LARGEST_STACK):
                some = matrices[start : start + LARGEST_STACK]
                updates = orthogonalized(torch.stack([self._momentum(m, group["momentum"]) for m in some]))
                for matrix, update in zip(some, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        gradient = matrix.grad if matrix.grad is not None else torch.zeros_like(matrix)
        mean: Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum).to(self._dtype)


def orthogonalized(x: Tensor) -> Tensor:
    """Matrices [N, out, in] with the singular vectors of x and values of 0.7 to 1.2, by Newton-Schulz rounds."""
    if x.shape[1] > x.shape[2]:
        return orthogonalized(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
