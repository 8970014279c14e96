"""Cross-entropy over a large vocabulary without ever holding all logits.

T tokens, D dim, V vocab_size, N rows whose next token the loss counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octuor.ops import LayerRouting

SOFTMAX_ROWS = 32  # rows of float32 probabilities at a time: 4 MB at V = 32,000, so they stay in the cache


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of hidden [N, D] times head [V, D] transposed, plus bias [V], against targets [N].

    Logits exist for `chunk` rows at a time, in the head's dtype; their gradient takes their place
    and is multiplied back at once, so memory is chunk x V however many rows there are.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        rows = hidden.to(head.dtype)
        d_rows = torch.empty_like(rows)
        d_head = torch.zeros(head.shape, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32)
        logits = torch.empty((min(chunk, len(rows)), len(head)), dtype=head.dtype)
        for start in range(0, len(rows), chunk):
            own = slice(start, min(start + chunk, len(rows)))
            gradient = logits[: own.stop - own.start]
            torch.mm(rows[own], head.T, out=gradient)
            if bias is not None:
                gradient += bias
            for part, target in zip(gradient.split(SOFTMAX_ROWS), targets[own, None].split(SOFTMAX_ROWS), strict=True):
                total += _loss_to_gradient(part, target)
            torch.mm(gradient, head, out=d_rows[own])
            d_head += gradient.T @ rows[own]
        count = max(1, len(rows))
        ctx.save_for_backward(d_rows.to(hidden.dtype).div_(count), d_head.div_(count).to(head.dtype))
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_rows, d_head = ctx.saved_tensors
        return d_rows * gradients[0], d_head * gradients[0].to(d_head.dtype), None, None, None


def _loss_to_gradient(logits: Tensor, target: Tensor) -> Tensor:
    """Summed loss of a few rows of logits [n, V], which are replaced by its gradient; target [n, 1]."""
    x = logits.float()
    at_target = x.gather(1, target)
    largest = x.amax(1, keepdim=True)
    x.sub_(largest).exp_()
    total = x.sum(1, keepdim=True)
    x.div_(total).scatter_add_(1, target, torch.full(target.shape, -1.0))
    logits.copy_(x)
    return (largest + total.log() - at_target).sum()


@dataclass(frozen=True)
class Candidates:
    """Part of the vocabulary that a step's softmax is taken over.

    ids   [C] int64, sorted: every word that the step has as a target, and others drawn from the rest
    bias  [C] float32, what a drawn word's logit gets so that it stands for those that were not drawn: with it the sum
          under a softmax is right on average, and wholly right in the words that matter most
    Source: importance sampling as in Jean et al. 2015, arXiv:1412.2007, with the targets always among the candidates.
    """

    ids: Tensor
    bias: Tensor


def draw_candidates(targets: Tensor, vocab_size: int, n_drawn: int, seed: int) -> Candidates:
    """The targets' words and n_drawn of the others, all alike likely; the same seed draws the same."""
    is_target = torch.zeros(vocab_size, dtype=torch.bool)
    is_target[targets] = True
    others = (~is_target).nonzero()[:, 0]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    drawn = others[order[:n_drawn]]
    weight = torch.zeros(vocab_size)
    weight[drawn] = math.log(len(others) / max(1, len(drawn)))
    is_target[drawn] = True
    ids = is_target.nonzero()[:, 0]
    return Candidates(ids, weight[ids])


def next_token_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, learned: Tensor, chunk: int, candidates: Candidates | None = None
) -> Tensor:
    """Mean loss over the learned rows.

    hidden      [T, D] final hidden states
    targets     [T] int64, the token that follows each
    learned     [T] bool, whether it counts; other rows cost nothing
    candidates  words that the softmax is taken over, among them the learned targets; None: all
    """
    rows = learned.nonzero()[:, 0]
    wanted, bias = targets[rows], None
    if candidates is not None:
        head, bias = head[candidates.ids], candidates.bias
        wanted = torch.searchsorted(candidates.ids, wanted)
    loss: Tensor = ChunkedCrossEntropy.apply(hidden[rows], head, bias, wanted, chunk)  # type: ignore[no-untyped-call]
    return loss


def balance_loss(routing: LayerRouting) -> Tensor:
    """How unevenly experts are loaded: 1 when even, up to E when one has it all.

    Source: Fedus et al. 2021, Switch Transformers, arXiv:2101.03961, eq. 4, over the A chosen experts.
    """
    n_experts = routing.logits.shape[1]
    probability = torch.softmax(routing.logits, dim=-1).mean(dim=0)  # [E]
    load = torch.bincount(routing.experts.reshape(-1), minlength=n_experts) / routing.experts.numel()
    return n_experts * (load * probability).sum()
