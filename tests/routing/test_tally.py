"""Counts over several routings are those of each together, never across their borders."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.api import Model
from octuor.errors import RequestError
from octuor.routing import Routing
from octuor.routing.tally import Tally
from tiny_models import TINY


def test_of_one_routing_it_is_the_routings_own(small: Routing) -> None:
    tally = Tally.of(small)
    assert (tally.n_tokens, tally.n_pairs, tally.n_experts, tally.n_layers, tally.n_choices) == (3, 2, 4, 2, 2)
    np.testing.assert_array_equal(tally.chosen.sum(axis=0), small.load())
    np.testing.assert_array_equal(tally.chosen[0], small.load(first_only=True))
    for choices in (1, 2):
        np.testing.assert_array_equal(tally.repetition(choices), small.repetition(choices))
        assert tally.random_repetition(choices) == small.random_repetition(choices)


def test_shares_sum_to_one(small: Routing) -> None:
    tally = Tally.of(small)
    for choice in (None, 0, 1):
        np.testing.assert_allclose(tally.share(choice).sum(axis=1), 1)
    assert tally.share()[0].tolist() == [2 / 6, 2 / 6, 1 / 6, 1 / 6]


def test_two_routings_have_no_pair_between_them(tiny: Model) -> None:
    parts = [tiny.route([1, 700 + n, 900, 4000], alternatives=None) for n in range(3)]
    tally = Tally.empty("x", TINY)
    for part in parts:
        tally.add(part, skip=1)
    assert (tally.n_tokens, tally.n_pairs) == (9, 6)
    expected = sum(Tally.of(part, skip=1).repeated for part in parts)
    np.testing.assert_array_equal(tally.repeated, expected)


def test_nothing_counted_has_no_rate() -> None:
    tally = Tally.empty("x", TINY)
    assert np.isnan(tally.repetition()).all()
    assert not tally.share().any()
    with pytest.raises(RequestError, match="choices"):
        tally.repetition(3)
