"""What a step makes small: the negative log-probability of answers, or that better answers do not lead worse ones.

N tokens that the loss counts, D dim, V vocab_size, B sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from octuor.ops.torch_leaves import FrozenMatrix
from octuor.train.loss import SOFTMAX_ROWS
from octuor.tune.recipe import Preference


class _LogProbabilities(torch.autograd.Function):
    """log softmax(hidden [N, D] times head transposed) at targets [N], under a head that does not learn.

    A token's gradient to its hidden state is a row that later factors only scale, so it is made at once, while its
    logits are there; they exist for `chunk` rows at a time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenMatrix, targets: Tensor, chunk: int) -> Tensor:
        found = torch.empty(len(hidden))
        wanted = ctx.needs_input_grad[0]
        slopes = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(hidden), chunk):
            own = slice(start, start + chunk)
            logits = head.times(hidden[own])
            parts = zip(
                logits.split(SOFTMAX_ROWS), targets[own].split(SOFTMAX_ROWS), found[own].split(SOFTMAX_ROWS),
                strict=True,
            )  # fmt: skip
            for part, target, out in parts:
                x = part.float()
                log_p = torch.log_softmax(x, dim=-1)
                out.copy_(log_p.gather(1, target[:, None])[:, 0])
                if wanted:
                    slope = log_p.exp_().neg_()
                    slope.scatter_add_(1, target[:, None], torch.ones(len(target), 1))
                    part.copy_(slope)
            if slopes is not None:
                slopes[own] = head.times_transposed(logits).to(hidden.dtype)
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0][:, None], None, None, None


def log_probabilities(hidden: Tensor, head: Tensor | FrozenMatrix, targets: Tensor, chunk: int) -> Tensor:
    """Of each target [N] int64 after its hidden state [N, D]: [N] float32, differentiable.

    chunk  rows of logits that exist at once
    """
    if isinstance(head, FrozenMatrix):
        found: Tensor = _LogProbabilities.apply(hidden, head, targets, chunk)  # type: ignore[no-untyped-call]
        return found
    if not len(hidden):
        return hidden.new_zeros(0) + 0 * hidden.sum()
    parts = [
        checkpoint(_dense, rows, head, own, use_reentrant=False)
        for rows, own in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _dense(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(rows.to(head.dtype), head).float()
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


@dataclass(frozen=True)
class Score:
    """Sums over some sequences, for means over a step.

    n        what is counted: answers' tokens, or pairs
    loss     differentiable
    margin   of pairs: beta times how much further the better answer has moved ahead than the base has it
    n_right  pairs of which it has moved ahead
    """

    n: int
    loss: Tensor
    margin: float = 0.0
    n_right: int = 0


def answers_score(log_p: Tensor) -> Score:
    """Of answers and texts: log_p [N] of each token that counts."""
    return Score(len(log_p), -log_p.sum())


def preference_score(log_p: Tensor, owners: Tensor, reference: Tensor, how: Preference) -> Score:
    """Of pairs, by direct preference optimization.

    log_p      [N] of each token that counts
    owners     [N] the sequence that it belongs to; of B, the better and the worse answer of each pair in turn
    reference  [B] the base's log-probability of each answer

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing as in Mitchell 2023, "A note on DPO with
    noisy preferences", eq. 3
    """
    answers = torch.zeros(len(reference)).index_add(0, owners, log_p)
    moved = answers - reference
    margin = how.beta * (moved[0::2] - moved[1::2])
    loss = -(1 - how.label_smoothing) * F.logsigmoid(margin) - how.label_smoothing * F.logsigmoid(-margin)
    return Score(len(margin), loss.sum(), float(margin.detach().sum()), int((margin > 0).sum()))
