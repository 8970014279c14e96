"""Which rows make a step: every row once an epoch, within the budget, decided by the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from octuor.tune.plan import plan_steps, turns
from octuor.tune.recipe import Schedule

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 3), st.integers(1, 120), st.integers(0, 5))
def test_every_row_comes_once_an_epoch_and_fits(lengths: list[int], epochs: int, budget: int, seed: int) -> None:
    steps = plan_steps(lengths, Schedule(epochs=epochs, tokens_per_step=budget, seed=seed))
    assert Counter(row for step in steps for row in step.tolist()) == dict.fromkeys(range(len(lengths)), epochs)
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        used = sum(lengths[row] for row in step)
        assert len(step) == 1 or used <= budget
        assert after is None or used + lengths[after[0]] > budget  # the next row no longer fitted


@given(LENGTHS, st.integers(1, 9), st.integers(1, 120))
def test_as_many_steps_as_asked_for(lengths: list[int], n: int, budget: int) -> None:
    schedule = Schedule(steps=n, tokens_per_step=budget)
    steps = plan_steps(lengths, schedule)
    assert len(steps) == n
    again = plan_steps(lengths, schedule)
    assert all(np.array_equal(*both) for both in zip(steps, again, strict=True))


def test_part_of_an_epoch_and_another_seed() -> None:
    lengths = [1] * 100
    half = plan_steps(lengths, Schedule(epochs=0.5, tokens_per_step=10))
    assert sum(len(step) for step in half) == 50
    other = plan_steps(lengths, Schedule(epochs=0.5, tokens_per_step=10, seed=1))
    assert [step.tolist() for step in half] != [step.tolist() for step in other]


@given(LENGTHS, st.integers(1, 120))
def test_turns_are_the_step_cut_in_order(lengths: list[int], at_once: int) -> None:
    rows = np.arange(len(lengths))
    parts = turns(rows, lengths, at_once)
    assert np.concatenate(parts).tolist() == rows.tolist()
    assert all(len(part) == 1 or sum(lengths[row] for row in part) <= at_once for part in parts)
