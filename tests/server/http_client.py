"""Requests to an application in this process, without ports."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import httpx

import octuor
from octuor.api import Model
from octuor.server.app import create_app
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from server.fake_engine import FakeEngine, Script, says


@functools.cache
def pocket() -> Model:
    """The pocket model, loaded once; its tokenizer and geometry are what the fake engine's server has."""
    return octuor.load()


class Client:
    """A server over a fake engine, and one-line requests to it."""

    def __init__(self, script: Script | None = None, *, settings: ServerSettings | None = None) -> None:
        self.engine = FakeEngine(script or says("Hi", " there"))
        self.serving = Serving(Registry([Served("pocket", pocket(), self.engine)]))
        self.app = create_app(self.serving, settings)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; options are httpx's."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://octuor") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> httpx.Response:
        """POST of a JSON value."""
        return self.request("POST", path, **({"json": body} if body is not None else {}), **options)

    def stream(self, path: str, body: object) -> list[Any]:
        """The events of a stream, "[DONE]" as itself."""
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        return events_of(answer)


def events_of(answer: httpx.Response) -> list[Any]:
    """The events of a whole stream, checked for their framing."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    frames = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [data if data == "[DONE]" else json.loads(data) for data in (frame[len("data: ") :] for frame in frames)]
