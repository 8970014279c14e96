"""A real server on a free port, in a thread of this process, and raw connections to it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from octuor.server.app import create_app
from octuor.server.lifecycle import Server
from octuor.server.record import RequestRecord
from octuor.server.registry import AnswerEngine, Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from octuor.server.sockets import bind
from server.fake_engine import FakeEngine, says
from server.http_client import pocket

DEADLINE_S = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that has to come; fails where it does not."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"expected {what}"
        time.sleep(0.005)


@dataclass
class Live:
    """A running server; `records` holds every request that is over."""

    port: int
    serving: Serving
    server: Server
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    records: list[RequestRecord] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=DEADLINE_S, **options)

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=DEADLINE_S, **options)

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """A bare connection. receive_bytes: of the kernel's buffer for what is not read."""
        connection = socket.socket()
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(DEADLINE_S)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def say(self, data: bytes) -> bytes:
        """What comes back to these bytes until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def stop(self) -> None:
        """As a signal would."""
        self.loop.call_soon_threadsafe(self.server.stop)

    def join(self) -> None:
        """Wait for the end."""
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end of a connection, however it ends."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def head_and_body(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def chat(text: str = "Hi", **fields: object) -> dict[str, object]:
    """A request to /v1/chat/completions."""
    return {"model": "pocket", "messages": [{"role": "user", "content": text}], **fields}


def raw_post(path: str, value: object, *headers: str) -> bytes:
    """A whole request."""
    body = json.dumps(value).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: octuor", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


@contextmanager
def live_server(
    engine: AnswerEngine | None = None,
    settings: ServerSettings | None = None,
    *,
    serving: Serving | None = None,
    prepare: Callable[[], None] | None = None,
    send_bytes: int | None = None,
) -> Iterator[Live]:
    """A server over an engine; ended when it is left, if it has not ended.

    engine      None: a fake one that says "Hi there"
    send_bytes  of the kernel's buffer for what a client has not taken yet
    """
    settings = settings or ServerSettings()
    if serving is None:
        serving = Serving(
            Registry([Served("pocket", pocket(), engine or FakeEngine(says("Hi", " there")))]), settings=settings
        )
    server = Server(create_app(serving, settings), serving, settings, prepare)
    [listener] = bind("127.0.0.1", 0)
    if send_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    started: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        started.append(asyncio.get_running_loop())
        await server.serve([listener])

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    port = listener.getsockname()[1]
    thread.start()
    until(lambda: server.started, "the server to start")
    live = Live(port, serving, server, started[0], thread)
    serving.listeners.append(live.records.append)
    try:
        yield live
    finally:
        if thread.is_alive():
            live.stop()
        live.join()
        listener.close()
        server.close()
