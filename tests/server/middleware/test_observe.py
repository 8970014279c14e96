"""Request ids, records, and what becomes of bugs."""

from __future__ import annotations

import logging
import re
import threading

import pytest
from starlette.requests import Request as HttpRequest

from octuor.engine.request import Prefilled, Step, TokenInfo
from octuor.server.middleware.observe import choose_id
from octuor.server.record import RequestRecord
from server.fake_engine import FakeEngine, plays
from server.http_client import Client
from server.live_server import chat, live_server, raw_post, until

MADE = re.compile(r"req-[0-9a-f]{32}")


@pytest.fixture(scope="module")
def shared() -> Client:
    return Client()


@pytest.mark.parametrize("given", ["a", "0af7651916cd43dd8448eb211c80319c", "x" * 128, "a:b/c?d=e"])
def test_sane_request_ids_are_given_back(shared: Client, given: str) -> None:
    assert shared.get("/health", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\x07", "caf\xe9"])
def test_others_are_made(given: str | None) -> None:
    assert MADE.fullmatch(choose_id(given))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("PUT", "/health"), ("POST", "/v1/chat/completions"), ("OPTIONS", "/health")],
)
def test_every_answer_has_an_id(shared: Client, method: str, path: str) -> None:
    headers = {"origin": "http://localhost", "access-control-request-method": "GET"} if method == "OPTIONS" else {}
    assert MADE.fullmatch(shared.request(method, path, headers=headers).headers["x-request-id"])


def kept(client: Client) -> list[RequestRecord]:
    """The records of the requests to come."""
    records: list[RequestRecord] = []
    client.serving.listeners.append(records.append)
    return records


def test_the_record_of_an_answer() -> None:
    client = Client()
    records = kept(client)
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    client.post("/v1/chat/completions?secret=1", chat(), headers={"traceparent": parent, "x-request-id": "r-1"})
    [record] = records
    assert (record.request_id, record.method, record.path, record.status) == (
        "r-1",
        "POST",
        "/v1/chat/completions",
        200,
    )
    assert (record.route, record.model, record.finished) == ("/v1/chat/completions", "pocket", ["stop"])
    assert record.trace is not None
    assert record.trace.trace_id == "a" * 32
    assert record.completion_tokens == 2
    assert record.began_at < record.ended_at
    assert record.queue_s is not None
    assert record.first_token_s is not None
    assert not record.is_client_gone


def test_paths_of_strangers_have_no_route() -> None:
    client = Client()
    records = kept(client)
    client.get("/nowhere")
    client.get("/v1/models/a/b/c")
    assert [(record.route, record.status) for record in records] == [("", 404), ("/v1/models/{model_id:path}", 404)]


def test_bugs_are_500_with_an_id_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()

    @client.app.get("/bug")
    async def bug(request: HttpRequest) -> None:
        raise ZeroDivisionError(request.url.path)

    with caplog.at_level(logging.ERROR):
        answer = client.get("/bug")
    assert answer.status_code == 500
    assert MADE.fullmatch(answer.headers["x-request-id"])
    assert "ZeroDivisionError" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in caplog.text
    assert client.serving.in_progress == 0


def test_a_client_that_leaves_before_its_answer_is_499() -> None:
    hold = threading.Event()
    with live_server(FakeEngine(plays(Prefilled(0), hold))) as live:
        with live.connect() as connection:
            connection.sendall(raw_post("/v1/chat/completions", chat()))
            until(lambda: live.serving.in_progress == 1, "the request to begin")
        until(lambda: live.records, "the record")
        [record] = live.records
        hold.set()
    assert (record.status, record.is_client_gone) == (499, True)


def test_a_client_that_leaves_its_body_unfinished_is_499_too() -> None:
    with live_server() as live:
        with live.connect() as connection:
            connection.sendall(raw_post("/v1/chat/completions", chat())[:-1])
            until(lambda: live.serving.in_progress == 1, "the request to begin")
        until(lambda: live.records, "the record")
        [record] = live.records
    assert (record.status, record.is_client_gone, record.error) == (499, True, None)


def test_a_client_that_leaves_its_stream_cancels_the_work() -> None:
    hold = threading.Event()
    engine = FakeEngine(plays(Prefilled(0), Step(0, TokenInfo(1000), "Hi"), hold))
    with live_server(engine) as live:
        with live.connect() as connection:
            connection.sendall(raw_post("/v1/chat/completions", chat(stream=True)))
            assert b"200 OK" in connection.recv(65536)
        until(lambda: live.records, "the record")
        [record] = live.records
        assert engine.jobs[0].cancelled.is_set()
        hold.set()
    assert (record.status, record.is_client_gone, record.is_stream) == (200, True, True)
