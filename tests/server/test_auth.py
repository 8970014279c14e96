"""Keys: who is let in, and what is written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octuor.accounts import Accounts, UsageRow, open_accounts, open_store
from octuor.engine.request import Failed
from octuor.errors import EngineError, OverloadError
from server.fake_engine import FakeEngine, plays, says, step
from server.http_client import HELLO, Client, Exchange, error_of, exchange

CHAT = "/v1/chat/completions"


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    with open_accounts(tmp_path) as found:
        yield found


def make_key(folder: Path, **limits: Any) -> str:
    with open_store(folder) as store:
        return store.create_key("ada", **limits)[0]


def usage(folder: Path) -> list[UsageRow]:
    with open_store(folder) as store:
        return store.usage()


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", "content-type": "application/json"}


def ask(client: Client, secret: str, **fields: Any) -> Any:
    body = {"model": "pocket", "messages": HELLO, **fields}
    return client.request("POST", CHAT, json=body, headers=bearer(secret))


def test_without_keys_everybody_is_local(tmp_path: Path, accounts: Accounts) -> None:
    client = Client(accounts=accounts)
    assert client.chat().status_code == 200
    assert ask(client, "anything").status_code == 200
    (row,) = usage(tmp_path)
    assert (row.name, row.model, row.requests, row.completion_tokens) == ("local", "pocket", 2, 4)
    assert client.engine.requests[0].tenant == "local"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("POST", CHAT), ("POST", "/v1/completions"), ("POST", "/v1/embeddings")],
)
@pytest.mark.parametrize("header", [None, "Bearer ", "Bearer sk-wrong", "Basic abc", "Bearer \xff"])
def test_nobody_comes_in_without_a_key(tmp_path: Path, method: str, path: str, header: str | None) -> None:
    make_key(tmp_path)
    with open_accounts(tmp_path) as accounts:
        client = Client(accounts=accounts)
        headers = {} if header is None else {"authorization": header.encode("latin-1")}
        answer = client.request(method, path, content=b"not even JSON", headers=headers)
        assert error_of(answer, 401)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/openapi.json").status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", " Bearer  "])
def test_a_key_comes_in(tmp_path: Path, scheme: str) -> None:
    secret = make_key(tmp_path)
    with open_accounts(tmp_path) as accounts:
        client = Client(accounts=accounts)
        headers = {"authorization": f"{scheme} {secret}"}
        assert client.request("GET", "/v1/models", headers=headers).status_code == 200
        assert ask(client, secret).status_code == 200
        (row,) = usage(tmp_path)  # on disk before the answer's end
    assert (row.name, row.requests, row.prompt_tokens, row.completion_tokens) == ("ada", 1, 9, 2)
    assert client.engine.requests[0].tenant == secret[:11]


def test_limits_are_answered_with_a_time(tmp_path: Path) -> None:
    secret = make_key(tmp_path, requests_per_minute=1)
    with open_accounts(tmp_path) as accounts:
        client = Client(accounts=accounts)
        assert ask(client, secret).status_code == 200
        answer = ask(client, secret, stream=True)
        assert error_of(answer, 429)["code"] == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_models_that_a_key_may_not_use(tmp_path: Path) -> None:
    secret = make_key(tmp_path, models=["other"])
    with open_accounts(tmp_path) as accounts:
        client = Client(accounts=accounts)
        assert error_of(ask(client, secret), 403)["code"] == "model_not_allowed"
        assert client.engine.requests == []


def test_an_alias_is_as_good_as_the_model(tmp_path: Path) -> None:
    secret = make_key(tmp_path, models=["mistral-small"])
    with open_accounts(tmp_path) as accounts:
        assert ask(Client(accounts=accounts), secret).status_code == 200


def test_a_stream_is_written_down_before_its_end(tmp_path: Path, accounts: Accounts) -> None:
    answer = Client(accounts=accounts).chat(stream=True)
    assert answer.text.endswith("[DONE]\n\n")
    (row,) = usage(tmp_path)
    assert (row.requests, row.completion_tokens, row.cancelled, row.errors) == (1, 2, 0, 0)


def test_a_full_queue_costs_nothing(tmp_path: Path, accounts: Accounts) -> None:
    client = Client(engine=FakeEngine(says("Hi"), refuses=OverloadError("full")), accounts=accounts)
    assert client.chat().status_code == 429
    assert usage(tmp_path) == []


def test_failures_are_written_down(tmp_path: Path) -> None:
    with open_accounts(tmp_path) as accounts:
        assert Client(plays(step("a"), Failed(EngineError("no"))), accounts=accounts).chat().status_code == 500
    (row,) = usage(tmp_path)
    assert (row.requests, row.errors, row.completion_tokens) == (1, 1, 1)


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_are_written_down(tmp_path: Path, stream: bool) -> None:
    """The engine is told at once, and what was computed until then counts."""
    never, said = threading.Event(), threading.Event()
    with open_accounts(tmp_path) as accounts:
        client = Client(plays(step("a"), step("b"), said, never), accounts=accounts)

        async def leave(now: Exchange) -> None:
            if stream:
                await now.until(lambda: b'"b"' in now.body)
            else:
                while not client.engine.jobs or client.engine.jobs[0].completion_tokens < 2:
                    await asyncio.sleep(0.001)
            now.leave()

        said.set()
        body = {"model": "pocket", "messages": HELLO, "stream": stream}
        exchange(client.app, CHAT, body, leave)
        assert client.engine.jobs[0].cancelled.is_set()
        never.set()
    (row,) = usage(tmp_path)
    assert (row.requests, row.cancelled, row.completion_tokens) == (1, 1, 2)
