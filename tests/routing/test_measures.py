"""Counts on routes small enough to count by hand."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from octuor.errors import RequestError
from octuor.routing.measures import check_choices, load, random_repetition, repeats

# Three tokens, two layers, two of four experts.
EXPERTS = np.array([[[0, 1], [3, 2]], [[1, 0], [3, 1]], [[2, 3], [1, 3]]], dtype=np.int16)


def test_load_counts_every_choice_or_the_first() -> None:
    assert load(EXPERTS, 4).tolist() == [[2, 2, 1, 1], [0, 2, 1, 3]]
    assert load(EXPERTS, 4, first_only=True).tolist() == [[1, 1, 1, 0], [0, 1, 0, 2]]
    assert load(EXPERTS[:0], 4).tolist() == [[0] * 4] * 2


def test_neighbours_repeat_an_expert_in_any_of_their_choices() -> None:
    assert repeats(EXPERTS, 1).tolist() == [[False, True], [False, False]]
    assert repeats(EXPERTS, 2).tolist() == [[True, True], [False, True]]
    assert repeats(EXPERTS[:1], 2).shape == (0, 2)


@pytest.mark.parametrize(("n_experts", "choices"), [(8, 1), (8, 2), (4, 2), (5, 3), (3, 2)])
def test_the_random_rate_is_that_of_all_pairs_of_draws(n_experts: int, choices: int) -> None:
    pairs = [
        bool(set(here) & set(after))
        for here in combinations(range(n_experts), choices)
        for after in permutations(range(n_experts), choices)
    ]
    assert random_repetition(n_experts, choices) == pytest.approx(sum(pairs) / len(pairs))


def test_the_papers_random_rates() -> None:
    assert random_repetition(8, 1) == 0.125
    assert random_repetition(8, 2) == pytest.approx(1 - 6 / 8 * 5 / 7)


@pytest.mark.parametrize("choices", [0, 3])
def test_more_choices_than_a_token_has_are_refused(choices: int) -> None:
    with pytest.raises(RequestError, match=f"expected 1 to the 2 experts that play a token, found {choices}"):
        check_choices(choices, 2)
