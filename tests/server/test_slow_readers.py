"""Clients that do not read their streams: nobody waits for them, and they are cut off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Event, Finish, Prefilled, Request, Step, TokenInfo
from octuor.server.limits import Limits
from octuor.server.settings import ServerSettings
from server.fake_engine import FakeEngine
from server.http_client import pocket
from server.live_server import chat, live_server, raw_post, read_all, until

SMALL = 4096  # bytes of the kernel's buffers, so that few events fill them
LONG = chat("Tell me a story.", stream=True, max_tokens=200, min_tokens=200, logprobs=True, top_logprobs=10, seed=1)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(pocket(), EngineSettings(max_batch=4)) as running:
        yield running


def test_a_client_that_does_not_read_holds_neither_the_engine_nor_others(engine: Engine) -> None:
    settings = ServerSettings(limits=Limits(send_timeout_s=30))
    with live_server(engine, settings, send_bytes=SMALL) as live, live.connect(SMALL) as slow:
        slow.sendall(raw_post("/v1/chat/completions", LONG))
        until(lambda: engine.stats().running == 1, "the slow one's answer to begin")
        assert live.post("/v1/chat/completions", chat(max_tokens=8)).status_code == 200
        until(lambda: engine.is_idle, "the engine to be done with the answer that nobody reads")
        assert engine.stats().pages_held == 0
        assert live.serving.in_progress == 1  # the HTTP side still holds the events
        assert read_all_of_stream(slow.recv).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")  # and they are all there
        until(lambda: len(live.records) == 2, "both to be over")
        assert live.records[-1].cut_off == ""


def read_all_of_stream(receive: object) -> bytes:
    """A whole chunked answer."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        piece = receive(65536)  # type: ignore[operator]
        assert piece
        data += piece
    return data


def endless(request: Request) -> Iterator[Event]:  # noqa: ARG001
    """More than any buffer takes, as fast as it comes."""
    yield Prefilled(0)
    for _ in range(100_000):
        yield Step(0, TokenInfo(1000), "x" * 2000)
    yield Step(0, TokenInfo(1000), "", Finish("stop"))


def test_one_that_takes_nothing_is_cut_off_and_its_work_cancelled() -> None:
    engine = FakeEngine(endless)
    settings = ServerSettings(limits=Limits(send_timeout_s=0.2))
    with live_server(engine, settings, send_bytes=SMALL) as live, live.connect(SMALL) as slow:
        slow.sendall(raw_post("/v1/chat/completions", chat(stream=True)))
        until(lambda: live.records, "the record")
        [record] = live.records
        assert (record.cut_off, record.is_client_gone, record.status) == ("took nothing", True, 200)
        assert engine.jobs[0].cancelled.is_set()
        assert not live.server.server_state.connections
        assert not read_all(slow).endswith(b"0\r\n\r\n")
