"""The optimiser against trying everything, and its bound against what it finds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octuor.errors import RequestError
from octuor.tools.pack.allocate import Allocation, Choice, allocate

Items = list[list[Choice]]
SAME = 1e-9  # sums in another order

choices = st.builds(Choice, st.integers(1, 40), st.floats(0, 100, allow_nan=False).map(lambda loss: round(loss, 3)))
problems = st.tuples(st.lists(st.lists(choices, min_size=1, max_size=4), min_size=1, max_size=6), st.integers(1, 200))


def least_loss(items: Items, budget: int) -> float | None:
    """By trying every combination; None where none fits."""
    fitting = [
        sum(choice.loss for choice in chosen)
        for chosen in product(*items)
        if sum(choice.n_bytes for choice in chosen) <= budget
    ]
    return min(fitting, default=None)


def check(found: Allocation, items: Items, budget: int) -> None:
    chosen = [item[pick] for item, pick in zip(items, found.picks, strict=True)]
    assert found.n_bytes == sum(choice.n_bytes for choice in chosen) <= budget
    assert found.loss == pytest.approx(sum(choice.loss for choice in chosen))
    assert found.bound <= found.loss
    assert found.gap >= 0


@settings(max_examples=60, deadline=None)
@given(problems)
def test_nothing_is_better(problem: tuple[Items, int]) -> None:
    items, budget = problem
    best = least_loss(items, budget)
    if best is None:
        with pytest.raises(RequestError, match="expected at least"):
            allocate(items, budget)
        return
    found = allocate(items, budget)
    check(found, items, budget)
    assert found.loss == pytest.approx(best, rel=SAME, abs=SAME)


@settings(max_examples=60, deadline=None)
@given(problems)
def test_the_bound_holds_without_the_search(problem: tuple[Items, int]) -> None:
    items, budget = problem
    best = least_loss(items, budget)
    if best is not None:
        found = allocate(items, budget, max_states=0)
        check(found, items, budget)
        assert found.bound <= best + SAME


def mixtral_items(seed: int) -> Items:
    """As many items, sizes and formats as 8x7B has, with losses that fall by about 4 a bit."""
    rng = np.random.default_rng(seed)
    bits = (2.375, 3.375, 4.375, 5.375, 6.375, 8.0625)
    shapes = [14336 * 4096] * 768 + [4096 * 4096] * 64 + [1024 * 4096] * 64 + [32000 * 4096] * 2
    return [
        [Choice(int(n * b / 8), float(scale * 4.0**-b * rng.uniform(0.9, 1.1))) for b in bits]
        for n, scale in zip(shapes, rng.lognormal(0, 1.5, len(shapes)), strict=True)
    ]


@pytest.mark.parametrize("gb", [14.5, 18.0, 25.0])
def test_a_model_of_true_size_comes_close_to_the_bound(gb: float) -> None:
    items = mixtral_items(0)
    found = allocate(items, int(gb * 1e9))
    check(found, items, int(gb * 1e9))
    assert found.gap < 1e-3


def test_room_for_everything_takes_the_best() -> None:
    items = mixtral_items(1)
    found = allocate(items, 10**12)
    assert found.picks == (5,) * len(items)
    assert found.loss == found.bound


def test_the_least_that_fits_is_named() -> None:
    with pytest.raises(RequestError, match="at least 7 bytes, found 6"):
        allocate([[Choice(3, 1.0), Choice(9, 0.0)], [Choice(4, 1.0)]], 6)


def test_a_larger_choice_that_is_worse_is_never_taken() -> None:
    found = allocate([[Choice(3, 1.0), Choice(9, 2.0)]], 100)
    assert found.picks == (0,)
