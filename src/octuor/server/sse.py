"""Answers in events: framing that every client reads, keep-alive comments, and the end when the client goes.

`data: ` with one blank, one line an event, no `event:` lines. Headers wait for the first event or the first ping, so
that a failure before it still has a status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octuor.errors import OctuorError
from octuor.server.connection import ClientGoneError, end_task, while_connected
from octuor.server.errors import ApiError, as_api_error, tgi_body
from octuor.server.json_text import dumps
from octuor.server.record import RequestRecord, record_of

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PING_S = 10.0  # seconds of silence before a comment shows that the connection lives
HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}

logger = logging.getLogger(__name__)


def frame(value: object) -> bytes:
    """One event."""
    return b"data: " + dumps(value) + b"\n\n"


def error_frame(error: ApiError) -> bytes:
    """The event that says why a stream breaks off."""
    return frame({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


class EventStream(Response):
    """A response of whole frames as they come.

    frames  closed when the client goes. What it raises before its first frame is the answer; afterwards an OctuorError
            or ApiError becomes an error frame, and the connection breaks, so that no client takes it for the end
    as_tgi  error frames are TGI's: {"error": text, "error_type": …}
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], *, ping_s: float = PING_S, as_tgi: bool = False) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)
        self._frames = frames
        self._ping_s = ping_s
        self._as_tgi = as_tgi
        self._is_started = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.is_stream = True
        try:
            await while_connected(receive, self._send_all(record, send))
        except ClientGoneError:
            record.is_client_gone = True

    async def _send_all(self, record: RequestRecord, send: Send) -> None:
        pings = asyncio.create_task(self._ping(send))
        try:
            async for data in self._frames:
                await self._send(send, data)
        except Exception as error:
            if not self._is_started:
                raise
            if not isinstance(error, OctuorError | ApiError):
                logger.exception("a stream broke off")
            record.error = as_api_error(error)
            await self._send(send, self._error_frame(record.error))
            return  # without the end of the body: the server closes the connection
        finally:
            await end_task(pings)
            await self._frames.aclose()
        await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, data: bytes) -> None:
        await self._start(send)
        self._sent_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _start(self, send: Send) -> None:
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _ping(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            silent_s = loop.time() - self._sent_at
            if silent_s >= self._ping_s:
                await self._send(send, PING)
                silent_s = 0.0
            await asyncio.sleep(self._ping_s - silent_s)

    def _error_frame(self, error: ApiError) -> bytes:
        return frame(tgi_body(error)) if self._as_tgi else error_frame(error)
