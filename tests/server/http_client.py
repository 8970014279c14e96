"""Requests to an application in this process, without ports."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

import octuor
from octuor.accounts import Accounts
from octuor.api import Model
from octuor.server.app import create_app
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from server.fake_engine import FakeEngine, Script, says

HELLO = [{"role": "user", "content": "Hello"}]
JSON = {"content-type": "application/json"}


@functools.cache
def pocket() -> Model:
    """The pocket model, loaded once; its tokenizer and geometry are what the fake engine's server has."""
    return octuor.load()


class Client:
    """A server over a fake engine, and one-line requests to it."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        engine: FakeEngine | None = None,
        settings: ServerSettings | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.engine = engine or FakeEngine(script or says("Hi", " there"))
        self.serving = Serving(Registry([Served("pocket", pocket(), self.engine)]), accounts)
        self.app = create_app(self.serving, settings)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; options are httpx's."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> httpx.Response:
        """POST of a JSON value."""
        if body is not None:
            options |= {"content": json.dumps(body), "headers": JSON | options.get("headers", {})}
        return self.request("POST", path, **options)

    def chat(self, **fields: Any) -> httpx.Response:
        """POST to /v1/chat/completions: a greeting, where fields have no messages."""
        return self.post("/v1/chat/completions", {"model": "pocket", "messages": HELLO, **fields})

    def chat_stream(self, **fields: Any) -> list[Any]:
        """The events of a chat's stream, "[DONE]" as itself."""
        return events_of(self.chat(stream=True, **fields))


def events_of(answer: httpx.Response) -> list[Any]:
    """The events of a whole stream, checked for their framing; comments are left out."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text.endswith("\n\n")
    frames = [frame for frame in answer.text.removesuffix("\n\n").split("\n\n") if frame != ": ping"]
    assert all(frame.startswith("data: ") and len(frame.splitlines()) == 1 for frame in frames)
    return [data if data == "[DONE]" else json.loads(data) for data in (frame[len("data: ") :] for frame in frames)]


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an error, checked for what every client of /v1 needs."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["object"] == "error"
    assert isinstance(body["message"], str)
    assert body["error"] == {key: body[key] for key in ("message", "type", "param", "code")}
    assert ("detail" in body) == (status == 422)
    for detail in body.get("detail", ()):
        assert set(detail) == {"loc", "msg", "type"}
    return body


# ---- a client that can go away -------------------------------------------------------------------


@dataclass
class Exchange:
    """One request at the ASGI level: what was sent so far, and ways to wait and to leave."""

    status: int | None = None
    body: bytes = b""
    is_whole: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        """Close the connection."""
        self._gone.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait, ten seconds at most, until something is so after some part has been sent."""
        while not is_so():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)

    async def send(self, message: Any) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message["body"]
            self.is_whole = not message.get("more_body", False)
        self._changed.set()

    async def gone(self) -> Any:
        """ASGI's receive, after the body."""
        await self._gone.wait()
        return {"type": "http.disconnect"}


def exchange(app: FastAPI, path: str, body: object, client: Callable[[Exchange], Coroutine[Any, Any, None]]) -> None:
    """POST a JSON value while `client` watches the answer and may leave; returns when the application has ended."""

    async def run() -> None:
        now = Exchange()
        parts = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            return parts.pop() if parts else await now.gone()

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("octuor", 80),
        }  # fmt: skip
        serving = asyncio.create_task(app(scope, receive, now.send))
        await asyncio.wait_for(client(now), 10)
        await asyncio.wait_for(serving, 10)

    asyncio.run(run())
