"""Shares follow the routes; who leaves is whose next use is expected last."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.experts.policy import Usage


def routes(*tokens: tuple[int, int]) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def test_shares_are_equal_at_first_and_add_up_to_the_experts_of_a_token() -> None:
    usage = Usage(3, 8, 2)
    assert (usage.shares == 0.25).all()
    usage.note(1, routes((0, 1), (0, 2), (0, 7)))
    assert usage.shares.sum(axis=1) == pytest.approx([2, 2, 2])
    assert usage.shares[1].argmax() == 0
    assert (usage.shares[[0, 2]] == 0.25).all()


def test_a_prompt_and_its_tokens_one_by_one_weigh_alike() -> None:
    whole, apart = Usage(1, 4, 2, half_life=8), Usage(1, 4, 2, half_life=8)
    tokens = [(0, 1)] * 8
    whole.note(0, routes(*tokens))
    for token in tokens:
        apart.note(0, routes(token))
    assert whole.shares == pytest.approx(apart.shares)
    assert whole.shares[0, 0] == pytest.approx(0.75)  # half of what was known, half of the certain new


def test_in_a_prompt_what_has_had_its_turn_leaves_first_and_the_next_layer_last() -> None:
    usage = Usage(4, 4, 2)
    expected = usage.passes_to_use(layer=1, n_tokens=200).mean(axis=1)
    assert expected[:2].min() > expected[2:].max()
    assert expected[3] > expected[2]


def test_among_those_that_had_their_turn_the_rare_leave_first() -> None:
    usage = Usage(2, 4, 2)
    for _ in range(50):
        usage.note(0, routes((0, 1)))
    expected = usage.passes_to_use(layer=0, n_tokens=1)
    assert expected[0, 2] > expected[0, 0]
    assert expected[0, 3] > 4 * expected[0, 0]
    assert expected[0, 0] < 1.25  # in the next pass


def test_many_tokens_meet_all_experts() -> None:
    assert Usage(1, 8, 2).chances(16).min() > 0.98
    assert Usage(1, 8, 2).chances(1) == pytest.approx(0.25)
