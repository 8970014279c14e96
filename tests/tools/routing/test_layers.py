"""Layers by name and number."""

from __future__ import annotations

import pytest

from octuor.errors import RequestError
from octuor.tools.routing.layers import parse_layers


@pytest.mark.parametrize(
    ("text", "n_layers", "layers"),
    [
        ("first,middle,last", 32, (0, 15, 31)),
        ("first, middle, last", 2, (0, 1)),
        ("0,3,5", 6, (0, 3, 5)),
        ("last,0,first", 6, (5, 0)),
    ],
)
def test_names_and_numbers(text: str, n_layers: int, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, n_layers) == layers


@pytest.mark.parametrize("text", ["", "second", "-1", "1.5", "0,,1"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected numbers or first, middle, last"):
        parse_layers(text, 6)


def test_layers_that_are_not_there() -> None:
    with pytest.raises(RequestError, match="layers: expected 0 to 5, found 6"):
        parse_layers("0,6", 6)
