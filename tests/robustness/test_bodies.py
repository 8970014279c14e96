"""A few bodies for each route on each run; live_bodies.py sends many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustness.bodies import WHOLE
from robustness.fuzz import fuzz
from robustness.pocket import PocketServer, pocket_server

N_EXAMPLES = 12


@pytest.fixture(scope="module")
def server() -> Iterator[PocketServer]:
    with pocket_server() as server:
        yield server


def test_every_route_with_a_body_is_tried(server: PocketServer) -> None:
    paths = server.app.openapi()["paths"]
    assert set(WHOLE) == {path for path, methods in paths.items() if "post" in methods}


@pytest.mark.parametrize("path", WHOLE)
def test_no_body_breaks_the_server(server: PocketServer, path: str) -> None:
    assert fuzz(server, path, N_EXAMPLES).total() >= N_EXAMPLES
