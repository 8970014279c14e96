"""The outermost layer: gives a request its id and its record, and tells those who listen when it is over."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octuor.server.errors import CLIENT_GONE, as_api_error, error_response
from octuor.server.logs import request_id
from octuor.server.record import RequestRecord, record_of
from octuor.server.serving import Serving
from octuor.server.trace_context import parse_traceparent

ID = b"x-request-id"
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")

logger = logging.getLogger(__name__)


def choose_id(given: str | None) -> str:
    """The client's own request id where it can stand in a header and a log, else a new one."""
    return given if given and _SANE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


class Observe:
    """Keeps the record of each request; its id is in every answer.

    Bugs of what lies inside end here: they have been, or are, logged with a traceback, and the client has its 500.
    """

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = begin(scope)
        state = _State()
        token = request_id.set(record.request_id)
        self._serving.in_progress += 1
        self._serving.metrics.in_progress.inc()

        async def listen() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not state.is_complete:
                record.is_client_gone = True
            return message

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                state.is_started = True
                record.status = CLIENT_GONE if record.is_client_gone else message["status"]
                message = {**message, "headers": self._headers(message.get("headers", ()), record)}
            elif not message.get("more_body", False):
                state.is_complete = True
            await send(message)
            if not state.is_complete:  # an answer that is all there already would hold the loop to its end,
                await asyncio.sleep(0)  # deaf to other requests and to its own client's leaving

        try:
            await self._app(scope, listen, answer)
        except Exception as error:
            logger.exception("unexpected error on %s %s", record.method, record.path)
            record.error = as_api_error(error)
            if not state.is_started:
                await error_response(record.path, record.error)(scope, receive, answer)
        finally:
            if record.is_client_gone and not state.is_started:
                record.status = CLIENT_GONE
            if record.status == CLIENT_GONE:
                record.error = None  # whatever went wrong then, nobody was told
            record.route = _route(scope)
            self._serving.in_progress -= 1
            self._serving.metrics.in_progress.dec()
            self._serving.finished(record)
            request_id.reset(token)

    def _headers(self, headers: Sequence[tuple[bytes, bytes]], record: RequestRecord) -> list[tuple[bytes, bytes]]:
        added = [(name, value) for name, value in headers if name.lower() != ID]
        added.append((ID, record.request_id.encode("ascii")))
        if self._serving.is_draining and not any(name.lower() == b"connection" for name, _ in added):
            added.append((b"connection", b"close"))
        return added


class _State:
    is_started = False
    is_complete = False


def begin(scope: Scope) -> RequestRecord:
    """Note in a request's record what its head says."""
    headers = Headers(scope=scope)
    record = record_of(scope)
    record.began_at = time.perf_counter()
    record.request_id = choose_id(headers.get("x-request-id"))
    record.method, record.path = scope["method"], scope["path"]
    client = scope.get("client")
    record.client = client[0] if client else ""
    record.trace = parse_traceparent(headers.get("traceparent", ""), headers.get("tracestate", ""))
    return record


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return getattr(route, "path", "")
