"""The whole server in this process over a real engine: what it may answer to anything, and that it is well after."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

import octuor
from octuor.engine.engine import Engine, EngineSettings
from octuor.server.app import create_app
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings

JSON = {"content-type": "application/json"}
HELLO = {"model": "mistral-tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
ANSWER = "Hi! How are you today?"
TGI_PATHS = ("/", "/generate", "/generate_stream")
REFUSALS = {400, 404, 413, 415, 422, 429}
IDLE_WITHIN_S = 30.0


@dataclass
class PocketServer:
    """An application and its engine."""

    app: FastAPI
    engine: Engine

    def post(self, path: str, body: bytes) -> httpx.Response:
        """One request; an exception in the application is the 500 that a client would see."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://octuor") as client:
                return await client.post(path, content=body, headers=JSON)

        return asyncio.run(send())

    def check_well(self) -> None:
        """Raise AssertionError where a plain question is not answered as ever, or something is still held."""
        answer = self.post("/v1/chat/completions", json.dumps(HELLO).encode())
        assert answer.json()["choices"][0]["message"]["content"] == ANSWER
        until = time.monotonic() + IDLE_WITHIN_S
        while (stats := self.engine.stats()).running + stats.waiting and time.monotonic() < until:
            time.sleep(0.01)
        assert (stats.running, stats.waiting, stats.pages_held) == (0, 0, 0)


@contextmanager
def pocket_server(*, context: int = 128, max_choices: int = 4) -> Iterator[PocketServer]:
    """A server whose answers are short, so that many fit into a test."""
    model = octuor.load(context=context)
    with Engine(model, EngineSettings(max_batch=8)) as engine:
        serving = Serving(Registry([Served("pocket", model, engine)]), settings=ServerSettings(max_choices=max_choices))
        yield PocketServer(create_app(serving), engine)


def check_answer(path: str, answer: httpx.Response) -> None:
    """Raise AssertionError for an answer that no request may get, or that clients of the path cannot read."""
    if answer.status_code != 200:
        assert answer.status_code in REFUSALS, answer.text
        body = answer.json()
        if path in TGI_PATHS:
            assert isinstance(body["error"], str)
        else:
            assert body["object"] == "error"
            assert body["error"] == {key: body[key] for key in ("message", "type", "param", "code")}
            assert ("detail" in body) == (answer.status_code == 422)
        assert len(answer.content) < 20_000
    elif answer.headers["content-type"] == "application/json":
        answer.json()
    else:
        assert answer.headers["content-type"] == "text/event-stream"
        frames = answer.text.removesuffix("\n\n").split("\n\n")
        assert all(frame.startswith("data: ") and len(frame.splitlines()) == 1 for frame in frames)
        if path not in TGI_PATHS:
            assert frames.pop() == "data: [DONE]"
        for frame in frames:
            assert "error" not in json.loads(frame.removeprefix("data: ")), frame
