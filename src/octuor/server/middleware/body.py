"""How large and how slow a request's body may be, and how many bytes of all bodies are held at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octuor.server.errors import ApiError, error_response
from octuor.server.limits import Limits
from octuor.server.record import record_of

LINGER_S = 2.0  # a client that still sends what was refused may do so for this long, or it would not read why
CLOSE = {"connection": "close"}


class BodyLimits:
    """Answers 413, 408 and 429 to bodies that are too large, too slow and too many."""

    def __init__(self, app: ASGIApp, limits: Limits, max_body_bytes: int) -> None:
        self._app = app
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        try:
            if declared.isdecimal() and int(declared[:20]) > self._max_body_bytes:
                error = record_of(scope).error = body.refuse(too_large(self._max_body_bytes))
                await error_response(scope["path"], error)(scope, body.receive, body.send)
            else:
                await self._app(scope, body.receive, body.send)
        finally:
            self._held -= body.size


class _Body:
    """One request's body on its way in."""

    def __init__(self, owner: BodyLimits, receive: Receive, send: Send) -> None:
        self._owner = owner
        self._receive = receive
        self._send = send
        self.size = 0
        self._is_whole = False
        self._is_refused = False
        self._began_at = asyncio.get_running_loop().time()

    def refuse(self, error: ApiError) -> ApiError:
        """Note that the rest is not wanted, though it is coming."""
        self._is_refused = True
        return error

    async def receive(self) -> Message:
        """The next part. Raises ApiError."""
        if self._is_whole:
            return await self._receive()
        owner, limits = self._owner, self._owner._limits
        try:
            async with asyncio.timeout_at(self._began_at + limits.body_timeout_s + self.size / limits.body_bytes_per_s):
                message = await self._receive()
        except TimeoutError:
            raise too_slow() from None
        if message["type"] != "http.request":
            self._is_whole = True
            return message
        n = len(message.get("body", b""))
        self.size += n
        owner._held += n
        self._is_whole = not message.get("more_body", False)
        if self.size > owner._max_body_bytes:
            raise self.refuse(too_large(owner._max_body_bytes))
        if owner._held > limits.max_bodies_bytes:
            raise self.refuse(too_many())
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on; its end waits until a client that was refused has stopped sending."""
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not is_last or not self._is_refused or self._is_whole:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (part := await self._receive())["type"] == "http.request" and part.get("more_body", False):
                    pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def too_large(limit: int) -> ApiError:
    """413, by what was declared or by what has come."""
    return ApiError(413, f"body: expected at most {limit:,} bytes, found more", code="body_too_large", headers=CLOSE)


def too_slow() -> ApiError:
    """408: the body did not come."""
    return ApiError(408, "body: expected it faster; send it again", code="body_timeout", headers=CLOSE)


def too_many() -> ApiError:
    """429: together with those of other requests it does not fit."""
    headers = {"retry-after": "1", **CLOSE}
    return ApiError(429, "The server is busy with large requests; try again later", code="busy", headers=headers)
