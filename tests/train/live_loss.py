"""The losses against PyTorch's own and against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from octuor.ops import LayerRouting
from octuor.train.loop import rate_share
from octuor.train.loss import ChunkedCrossEntropy, balance_loss, draw_candidates, next_token_loss
from octuor.train.recipe import Schedule

# N rows, D dim, V vocab_size
N, D, V = 75, 16, 203
F32 = 1e-5  # sums of up to 203 float32 terms of order 1 in another order
BF16 = 3e-2  # logits and their gradients rounded to 8 bits, 2^-9 each, and summed over N rows


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, D] float32, head [V, D] of dtype, targets [N]."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=random).requires_grad_()
    head = (torch.randn(V, D, generator=random) * 0.5).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, V, (N,), generator=random)


def chunked(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int) -> Tensor:
    loss: Tensor = ChunkedCrossEntropy.apply(hidden, head, None, targets, chunk)  # type: ignore[no-untyped-call]
    return loss


def results(loss: Tensor, hidden: Tensor, head: Tensor) -> list[Tensor]:
    """The loss and its gradients, at a scale other than 1 so that a forgotten factor shows."""
    gradients = torch.autograd.grad(3 * loss, [hidden, head])
    return [loss.detach(), *(gradient.float() for gradient in gradients)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("chunk", [1, 32, 33, N - 1, N, 10 * N])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, F32), (torch.bfloat16, BF16)])
def test_chunked_cross_entropy_is_cross_entropy(chunk: int, dtype: torch.dtype, tolerance: float) -> None:
    hidden, head, targets = problem(dtype)
    found = results(chunked(hidden, head, targets, chunk), hidden, head)
    expected = results(functional.cross_entropy(hidden @ head.float().T, targets), hidden, head)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < tolerance


def test_large_logits_stay_finite() -> None:
    hidden, head, targets = problem(torch.float32)
    scaled = (hidden * 200).detach().requires_grad_()
    found = results(chunked(scaled, head, targets, 32), scaled, head)
    expected = results(functional.cross_entropy(scaled @ head.T, targets), scaled, head)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < F32


def test_only_learned_tokens_count() -> None:
    hidden, head, targets = problem(torch.float32)
    learned = torch.arange(N) % 3 == 0
    found = results(next_token_loss(hidden, head, targets, learned, 8), hidden, head)
    expected = results(functional.cross_entropy((hidden @ head.T)[learned], targets[learned]), hidden, head)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < F32
    assert not found[1][~learned].any()


def test_nothing_learned_is_no_loss() -> None:
    hidden, head, targets = problem(torch.float32)
    found = results(next_token_loss(hidden, head, targets, torch.zeros(N, dtype=torch.bool), 8), hidden, head)
    assert not any(x.any() for x in found)


def test_all_words_as_candidates_are_the_whole_softmax() -> None:
    hidden, head, targets = problem(torch.float32)
    everything = draw_candidates(targets, V, V, seed=0)
    assert everything.ids.tolist() == list(range(V))
    learned = torch.ones(N, dtype=torch.bool)
    found = results(next_token_loss(hidden, head, targets, learned, 8, everything), hidden, head)
    expected = results(functional.cross_entropy(hidden @ head.T, targets), hidden, head)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < F32


def test_a_few_words_drawn_give_the_softmax_on_average() -> None:
    """Its sum exactly so, its logarithm nearly where logits differ by little; each draw keeps all targets."""
    hidden, head, targets = problem(torch.float32)
    hidden = (hidden * 0.3).detach().requires_grad_()
    targets = targets % 60  # the words above are never targets
    learned = torch.ones(N, dtype=torch.bool)
    losses, gradients = [], []
    for seed in range(400):
        candidates = draw_candidates(targets, V, 40, seed)
        assert torch.isin(targets, candidates.ids).all()
        assert len(candidates.ids) == len(targets.unique()) + 40
        assert candidates.bias[torch.searchsorted(candidates.ids, targets)].abs().max() == 0
        loss, _, gradient = results(next_token_loss(hidden, head, targets, learned, 32, candidates), hidden, head)
        rows = torch.ones(V, dtype=torch.bool)
        rows[candidates.ids] = False
        assert not gradient[rows].any()
        losses.append(loss)
        gradients.append(gradient)
    expected, _, whole = results(functional.cross_entropy(hidden @ head.T, targets), hidden, head)
    assert float(torch.stack(losses).mean()) == pytest.approx(float(expected), rel=2e-3)
    assert relative_error(torch.stack(gradients).mean(0), whole) < 0.05
    assert float(torch.stack(losses).std()) > 0  # they do differ from draw to draw
    assert torch.equal(draw_candidates(targets, V, 40, 1).ids, draw_candidates(targets, V, 40, 1).ids)


def routing_of(logits: Tensor, n_chosen: int) -> LayerRouting:
    chosen = logits.topk(n_chosen, dim=-1)
    return LayerRouting(chosen.indices, chosen.values.softmax(-1), logits)


@pytest.mark.parametrize("n_chosen", [1, 2])
def test_an_even_load_costs_one(n_chosen: int) -> None:
    """Each expert is wanted most by as many tokens as any other."""
    n_experts = 4
    logits = torch.stack([torch.eye(n_experts).roll(shift, 1) * 2 + torch.eye(n_experts).roll(shift + 1, 1)
                          for shift in range(n_experts)]).flatten(0, 1)  # fmt: skip
    assert float(balance_loss(routing_of(logits, n_chosen))) == pytest.approx(1, abs=F32)


def test_one_expert_for_all_costs_as_much_as_there_are() -> None:
    logits = torch.full((10, 8), -50.0)
    logits[:, 3] = 50
    assert float(balance_loss(routing_of(logits, 1))) == pytest.approx(8, abs=F32)


def test_the_balance_of_two_tokens_by_hand() -> None:
    """Probabilities 3/4, 1/4 for both tokens, which both choose expert 0: E * (1 * 3/4 + 0 * 1/4) = 3/2."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]]).requires_grad_()
    loss = balance_loss(routing_of(logits, 1))
    assert float(loss.detach()) == pytest.approx(1.5, abs=F32)
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert (gradient[:, 0] > 0).all()  # a step against it makes the crowded expert less likely
    assert (gradient[:, 1] < 0).all()


def test_the_learning_rate_by_hand() -> None:
    schedule = Schedule(steps=12, warmup_steps=2, min_lr_share=0.1)
    half = 0.1 + 0.9 * 0.5
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 5))
    expected = {0: 0.5, 1: 1.0, 2: 1.0, 4: quarter, 7: half, 12: 0.1}
    assert {step: rate_share(step, schedule) for step in expected} == pytest.approx(expected)
    late = Schedule(steps=12, warmup_steps=2, min_lr_share=0.1, decay_share=0.4)  # the last 4 of 10
    assert {step: rate_share(step, late) for step in (2, 7, 8, 10, 12)} == pytest.approx(
        {2: 1.0, 7: 1.0, 8: 1.0, 10: half, 12: 0.1}
    )
    assert rate_share(0, Schedule(steps=5, warmup_steps=0)) == 1.0
    assert rate_share(4, Schedule(steps=5, warmup_steps=10)) == 0.5
