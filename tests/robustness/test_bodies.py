"""A few bodies for the routes outside /v1, which tests/server/test_any_body.py tries; live_bodies.py has many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustness.bodies import WHOLE
from robustness.fuzz import fuzz
from server.http_client import Client
from server.live_client import live_client

N_EXAMPLES = 12


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with live_client(128) as client:
        yield client


def test_every_route_with_a_body_is_tried(client: Client) -> None:
    paths = client.app.openapi()["paths"]
    assert set(WHOLE) == {path for path, methods in paths.items() if "post" in methods}


@pytest.mark.parametrize("path", [path for path in WHOLE if not path.startswith("/v1/")])
def test_no_body_breaks_the_server(client: Client, path: str) -> None:
    assert fuzz(client, path, N_EXAMPLES).total() >= N_EXAMPLES
