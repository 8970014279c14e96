"""Event streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from octuor.errors import EngineError, RequestError
from octuor.server.record import record_of
from octuor.server.sse import DONE, PING, EventStream, frame
from server.http_client import Exchange


def play(stream: EventStream, leave_after: bytes | None = None) -> tuple[Exchange, dict[str, Any]]:
    """What a client gets of a stream; it leaves once it has got some bytes."""
    scope: dict[str, Any] = {"type": "http"}

    async def run() -> Exchange:
        now = Exchange()
        task = asyncio.create_task(stream(scope, now.gone, now.send))
        if leave_after is not None:
            await now.until(lambda: leave_after in now.body)
            now.leave()
        await asyncio.wait_for(task, 10)
        return now

    return asyncio.run(run()), scope


def test_frames_are_one_line() -> None:
    assert frame({"a": "x\n\u2028"}) == b'data: {"a":"x\\n\\u2028"}\n\n'


def test_a_whole_stream() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield frame(1)
        yield DONE

    stream = EventStream(frames())
    got, scope = play(stream)
    assert (got.status, got.body, got.is_whole) == (200, b"data: 1\n\ndata: [DONE]\n\n", True)
    assert dict(stream.raw_headers) == {
        b"content-type": b"text/event-stream", b"cache-control": b"no-cache", b"x-accel-buffering": b"no",
    }  # fmt: skip
    assert record_of(scope).is_stream


def test_an_error_before_the_first_frame_is_raised() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        raise RequestError("no")
        yield b""

    with pytest.raises(RequestError):
        play(EventStream(frames()))


@pytest.mark.parametrize(
    ("as_tgi", "shown"),
    [
        (False, b'data: {"error":{"message":"broken","type":"server_error","param":null,"code":null}}\n\n'),
        (True, b'data: {"error":"broken","error_type":"generation"}\n\n'),
    ],
)
def test_an_error_after_it_is_shown_and_the_stream_breaks(as_tgi: bool, shown: bytes) -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield frame(1)
        raise EngineError("broken")

    got, scope = play(EventStream(frames(), as_tgi=as_tgi))
    assert got.body == frame(1) + shown
    assert not got.is_whole
    error = record_of(scope).error
    assert error is not None
    assert error.message == "broken"


def test_a_bug_says_no_more_than_that() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield frame(1)
        raise KeyError("secret")

    got, _ = play(EventStream(frames()))
    assert b"secret" not in got.body
    assert b"Something went wrong" in got.body


def test_silence_is_filled() -> None:
    pinged = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        await pinged.wait()
        yield frame(1)

    async def run() -> bytes:
        now = Exchange()
        task = asyncio.create_task(EventStream(frames(), ping_s=0.01)({"type": "http"}, now.gone, now.send))
        await now.until(lambda: now.body.count(PING) >= 2)
        pinged.set()
        await asyncio.wait_for(task, 10)
        return now.body

    body = asyncio.run(run())
    assert body.startswith(PING)
    assert body.endswith(frame(1))


def test_frames_end_when_the_client_goes() -> None:
    ended = []

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            yield frame(1)
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    got, scope = play(EventStream(frames()), leave_after=frame(1))
    assert ended == [True]
    assert not got.is_whole
    assert record_of(scope).is_client_gone
