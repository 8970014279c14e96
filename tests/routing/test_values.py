"""What a Routing holds together, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from octuor.errors import RequestError, ShapeError
from octuor.routing import Alternatives, Routing, TokenRoutes


def test_routes_are_equal_where_every_bit_is(small: Routing) -> None:
    routes = small.routes
    assert routes == TokenRoutes(small.experts.copy(), small.weights.copy())
    assert routes != TokenRoutes(small.experts, np.nextafter(small.weights, np.float32(1)))
    assert routes != TokenRoutes(small.experts[:2], small.weights[:2])
    assert TokenRoutes.joined([routes[:1], routes[1:]]) == routes
    assert len(routes[1:]) == 2


def test_counts_are_those_of_measures(small: Routing) -> None:
    assert (len(small), small.n_layers) == (3, 2)
    assert small.load().tolist() == [[2, 2, 1, 1], [0, 2, 1, 3]]
    assert small.load(first_only=True).sum(axis=1).tolist() == [3, 3]
    assert small.repetition().tolist() == [0.0, 0.5]
    assert small.repetition(2).tolist() == [0.5, 1.0]
    assert small.random_repetition(2) == pytest.approx(1 - 2 / 4 * 1 / 3)
    with pytest.raises(RequestError, match="choices"):
        small.repetition(3)


def test_one_token_has_no_neighbour(small: Routing) -> None:
    ids, logprobs, pieces = small.alternatives
    alternatives = Alternatives(ids[:1], logprobs[:1], pieces[:1])
    one = replace(
        small, ids=small.ids[:1], pieces=small.pieces[:1], experts=small.experts[:1], weights=small.weights[:1],
        logprobs=small.logprobs[:1], alternatives=alternatives,
    )  # fmt: skip
    assert np.isnan(one.repetition()).all()


def nothing(n_tokens: int, row: tuple[str, ...]) -> Alternatives:
    return Alternatives(np.zeros((n_tokens, 1), np.int32), np.zeros((n_tokens, 1), np.float32), (row,) * 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": np.zeros((3, 2, 1), np.float32)}, r"routing.weights: expected float32 \[3, 2, 2\]"),
        ({"experts": np.zeros((3, 2, 2), np.int32)}, "found int32"),
        ({"experts": np.zeros((3, 2), np.int16), "weights": np.zeros((3, 2), np.float32)}, "fewer axes"),
        ({"experts": np.full((3, 2, 2), 4, np.int16)}, "expected 0 to 3"),
        ({"experts": np.full((3, 2, 2), -1, np.int16)}, "expected 0 to 3"),
        ({"logprobs": np.zeros(2, np.float32)}, "routing.logprobs"),
        ({"pieces": ("", "")}, "expected 3, one a token, found 2 and 3"),
        ({"alternatives": nothing(3, ())}, "rows of 1"),
        ({"alternatives": nothing(2, ("",))}, "ids"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_together_are_refused(small: Routing, changes: dict, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        replace(small, **changes)
