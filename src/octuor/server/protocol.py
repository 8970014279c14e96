"""One connection: uvicorn's protocol over llhttp, with limits of its own on heads and times, and no doubtful framing.

What can be read in two ways is refused and the connection closed, so that a proxy before us and we never disagree on
where a request ends (RFC 9112, section 11.2). llhttp refuses most of it; this adds what it lets through: transfer
codings other than chunked, chunked in HTTP/1.0, HTTP/0.9, no or two hosts, trailers that pose as headers. The offer to
upgrade to HTTP/2, which Java's client makes with every request, is passed over as RFC 9110, section 7.8, allows.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from octuor.server.errors import ApiError, error_body
from octuor.server.json_text import dumps
from octuor.server.limits import Limits
from octuor.server.middleware.observe import choose_id
from octuor.server.record import RequestRecord, record_of

UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class RefusedError(Exception):
    """A head that is not taken; raised through the parser."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class GuardedProtocol(HttpToolsProtocol):
    """Made by uvicorn for each connection, in a class that `guarded` has filled in."""

    limits: ClassVar[Limits]
    on_refused: ClassVar[Callable[[RequestRecord], None]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_between = True  # the last request has come whole, the next one has not begun
        self._is_head = False
        self._n_fed = 0  # bytes of an unfinished head beyond the first piece
        self._n_head = self._n_headers = 0
        self._refusal: ApiError | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # ---- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Limit how many there are, and for how long a peer may be silent that has to answer."""
        super().connection_made(transport)
        _watch_peer(transport, self.limits.send_timeout_s)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(ApiError(429, "The server has too many connections; try again later", code="busy"))
            return
        self._start("head", self.limits.head_timeout_s, self._late_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        for name in list(self._timers):
            self._end(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse it, under the limits."""
        self._unset_keepalive_if_required()
        if self._is_between and "head" not in self._timers:
            self._start("head", self.limits.head_timeout_s, self._late_head)
        if self._is_head:
            self._n_fed += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(self._refusal or _malformed(error))
                return
        if self._is_head and self._n_fed > self.limits.max_head_bytes:
            self._refuse(self._too_long())

    def pause_writing(self) -> None:
        """The client does not take what it asked for: give it some time."""
        super().pause_writing()
        self._start("send", self.limits.send_timeout_s, self._late_client)

    def resume_writing(self) -> None:
        """It does again."""
        self._end("send")
        super().resume_writing()

    # ---- the parser ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A new head."""
        super().on_message_begin()
        self._is_between, self._is_head = False, True
        self._n_fed = self._n_head = self._n_headers = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the head, a trailer, which nobody here asked for."""
        self._n_headers += 1
        self._count_head(len(name) + len(value))
        if self._n_headers > self.limits.max_headers:
            self._raise(self._too_long())
        if self._is_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the framing, then let the application begin."""
        self._is_head = False
        self._check_head()
        if not self.parser.should_upgrade():  # else it comes again, without the offer
            self._end("head")
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has come whole."""
        super().on_message_complete()
        if not self._should_upgrade():
            self._is_between = True
            self._end("rest")

    def on_response_complete(self) -> None:
        """What is left of a body that nobody wanted has to come soon."""
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._start("rest", self.limits.head_timeout_s, self.transport.close)

    def _should_upgrade(self) -> bool:
        """Whether the request offers another protocol; uvicorn then leaves it to `data_received`."""
        return bool(self.parser.should_upgrade())

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._raise(ApiError(505, f"expected HTTP/1.1, found HTTP/{version}", code="bad_request"))
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._raise(ApiError(405, "expected a request to this server, found CONNECT", code="bad_request"))
        n_hosts = sum(name == b"host" for name, _ in self.headers)
        if n_hosts > 1 or (n_hosts == 0 and version == "1.1"):
            self._raise(ApiError(400, f"expected one Host header, found {n_hosts}", code="bad_request"))
        for name, value in self.headers:
            if name == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
                self._raise(
                    ApiError(501, "expected no transfer coding but chunked, and that in HTTP/1.1", code="bad_request")
                )

    def _without_upgrade(self) -> bytes:
        """The head again as if it had offered nothing, for a parser that has not seen it."""
        version = self.parser.get_http_version().encode("ascii")
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's: it is dropped
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in UPGRADE_HEADERS)
            if name not in UPGRADE_HEADERS and value:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _count_head(self, n_bytes: int) -> None:
        self._n_head += n_bytes
        if self._n_head > self.limits.max_head_bytes:
            self._raise(self._too_long())

    def _too_long(self) -> ApiError:
        limits = self.limits
        return ApiError(
            431,
            f"head: expected at most {limits.max_headers} headers and {limits.max_head_bytes:,} bytes, found more",
            code="head_too_large",
        )

    def _raise(self, error: ApiError) -> None:
        self._refusal = error
        raise RefusedError(error)

    # ---- the end ---------------------------------------------------------------------------------

    def _refuse(self, error: ApiError) -> None:
        """Answer what never became a request, unless another answer is on its way; then close."""
        if self.transport.is_closing():
            return
        path, client = self._path(), self.client[0] if self.client else ""
        record = RequestRecord(choose_id(None), "-", path or "-", client=client, status=error.status_code, error=error)
        is_free = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        if is_free and not self.pipeline:
            body = dumps(error_body(path, error))
            head = [
                f"HTTP/1.1 {error.status_code} {HTTPStatus(error.status_code).phrase}",
                f"content-type: application/json\r\ncontent-length: {len(body)}",
                f"x-request-id: {record.request_id}\r\nconnection: close",
            ]
            if error.status_code == 429:
                head.append("retry-after: 1")
            self.transport.write("\r\n".join([*head, "", ""]).encode("ascii") + body)
        self.transport.close()
        if self.cycle is not None:  # its client is lost
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        type(self).on_refused(record)

    def _path(self) -> str:
        target = bytes(getattr(self, "url", b"")).partition(b"?")[0]
        return target[:256].decode("ascii", "backslashreplace")

    def _late_head(self) -> None:
        if self._is_between:
            self.transport.close()  # it never asked for anything
        else:
            self._refuse(ApiError(408, "head: expected it faster; send it again", code="head_timeout"))

    def _late_client(self) -> None:
        if self.cycle is not None:
            record = record_of(cast(Scope, self.cycle.scope))
            record.is_client_gone, record.cut_off = True, "took nothing"
        self.transport.abort()

    def _start(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        self._end(name)
        self._timers[name] = self.loop.call_later(seconds, then)

    def _end(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def guarded(limits: Limits, on_refused: Callable[[RequestRecord], None]) -> type[GuardedProtocol]:
    """The protocol for uvicorn's setting `http`.

    on_refused  told of requests that no application saw
    """
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits, "on_refused": staticmethod(on_refused)})


def _malformed(error: httptools.HttpParserError) -> ApiError:
    return ApiError(400, f"expected a request of HTTP/1.1, found something else: {error}", code="bad_request")


def _watch_peer(transport: asyncio.Transport, seconds: float) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing: it has lost power, or its network."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
