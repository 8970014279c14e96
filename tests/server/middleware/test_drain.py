"""What is answered while the server drains."""

from __future__ import annotations

import pytest

from server.http_client import Client
from server.live_server import chat


@pytest.fixture(scope="module")
def client() -> Client:
    draining = Client()
    draining.serving.is_draining = True
    return draining


def test_new_requests_are_503_and_their_connections_closed(client: Client) -> None:
    answer = client.post("/v1/chat/completions", chat())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "draining"
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("5", "close")
    assert not client.engine.requests


def test_on_tgi_paths_it_is_429_for_their_clients_repeat_503_for_ever(client: Client) -> None:
    answer = client.post("/generate", {"inputs": "Hi"})
    assert answer.status_code == 429
    assert answer.json()["error_type"] == "overloaded"


@pytest.mark.parametrize(
    ("path", "status"), [("/health/live", 200), ("/health/ready", 503), ("/health", 503), ("/metrics", 200)]
)
def test_probes_are_answered(client: Client, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["connection"] == "close"
