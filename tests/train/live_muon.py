"""Muon beside torch's own, which computes in bfloat16, and the singular values of its steps. Of `make test-parity`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from octuor.train.muon import LARGEST_STACK, Muon, orthogonalized

BF16_ROUNDS = 0.05  # of the largest number of a step: five rounds of products rounded to 8 bits
SHAPES = [(24, 16), (16, 24), (16, 16), (24, 16)]
RATE, DECAY = 1e-2, 0.1


def problem(shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Matrices with gradients."""
    random = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=random) for shape in shapes]
    for matrix in matrices:
        matrix.grad = torch.randn(matrix.shape, generator=random)
    return matrices


def test_it_steps_as_torchs_own() -> None:
    ours, theirs = problem(SHAPES), problem(SHAPES)
    one = Muon(ours, RATE, DECAY, torch.float32)
    other = torch.optim.Muon(theirs, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = [matrix.clone() for matrix in theirs]
        one.step()
        other.step()
        for mine, their, old in zip(ours, theirs, before, strict=True):
            largest = float((their - old).abs().max())
            assert float((mine - their).abs().max()) < BF16_ROUNDS * largest
            mine.copy_(their)  # so that roundings do not add up
            for matrix in (mine, their):
                assert matrix.grad is not None
                matrix.grad += 0.5


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_singular_values_come_to_about_one(shape: tuple[int, int]) -> None:
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalized(x))
    assert float(values.max()) < 1.25
    assert float(values[:, : min(shape) // 2].min()) > 0.6  # the least of a square matrix may be far below


def test_a_matrix_moves_alike_in_whatever_stack() -> None:
    many = problem([(24, 16)] * (LARGEST_STACK + 3))
    alone = many[-1].clone()
    alone.grad = many[-1].grad
    Muon(many, RATE, DECAY, torch.float32).step()
    Muon([alone], RATE, DECAY, torch.float32).step()
    torch.testing.assert_close(many[-1], alone, rtol=0, atol=1e-6)


def test_a_matrix_without_a_gradient_only_decays() -> None:
    """As of an expert that no token chose."""
    [matrix] = problem([(24, 16)])
    before, matrix.grad = matrix.clone(), None
    Muon([matrix], RATE, DECAY, torch.float32).step()
    torch.testing.assert_close(matrix, before * (1 - RATE * DECAY))
