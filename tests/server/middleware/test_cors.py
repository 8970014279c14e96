"""Which pages may read answers."""

from __future__ import annotations

import pytest

from octuor.server.settings import ServerSettings
from server.http_client import Client
from server.live_server import chat

ALLOWED = "access-control-allow-origin"


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "http://[::1]:80"]
)
def test_pages_of_this_machine_may_by_default(client: Client, origin: str) -> None:
    answer = client.post("/v1/chat/completions", chat(), headers={"origin": origin})
    assert answer.headers[ALLOWED] == origin
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://example.org", "http://localhost.example.org", "http://127.0.0.1.nip.io", "http://evil/localhost", "null"],
)
def test_pages_of_strangers_may_not(client: Client, origin: str) -> None:
    answer = client.post("/v1/chat/completions", chat(), headers={"origin": origin})
    assert ALLOWED not in answer.headers
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    refused = client.request("OPTIONS", "/v1/chat/completions", headers=preflight)
    assert refused.status_code == 400
    assert ALLOWED not in refused.headers


def test_named_pages_may() -> None:
    client = Client(settings=ServerSettings(cors_origins=("https://chat.example.org",)))
    assert client.get("/v1/models", headers={"origin": "https://chat.example.org"}).headers[ALLOWED]
    assert ALLOWED not in client.get("/v1/models", headers={"origin": "https://other.example.org"}).headers


def test_all_may_with_a_star() -> None:
    client = Client(settings=ServerSettings(cors_origins=("*",)))
    assert client.get("/v1/models", headers={"origin": "https://example.org"}).headers[ALLOWED] == "*"


def test_a_browser_asks_first_and_is_told_what_it_may_send(client: Client) -> None:
    headers = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    answer = client.request("OPTIONS", "/v1/chat/completions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert "POST" in answer.headers["access-control-allow-methods"]


def test_errors_can_be_read_by_pages_too() -> None:
    answer = Client(settings=ServerSettings(max_body_bytes=10)).post(
        "/v1/chat/completions", chat(), headers={"origin": "http://localhost"}
    )
    assert answer.status_code == 413
    assert answer.headers[ALLOWED] == "http://localhost"
