"""A reader without a browser: what the page's own scripts send and get, in the words of Gradio's queue."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

CONFIG = "window.gradio_config = "
SETTINGS = ["", 0.9, 60, 0.9, 50, 1.2, None]  # as the panel begins, with shorter answers


@dataclass
class Answered:
    """One message's answer.

    first_s  until its first text came
    text     of the model's last turn, as the page has it in the end
    """

    first_s: float
    seconds: float
    text: str


class Visit:
    """One reader's page, loaded; cookies are its own."""

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self._client = client
        self._session = secrets.token_hex(6)
        self._ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self._events = config["dependencies"]

    async def begin(self) -> None:
        """What the page does when it is loaded."""
        for event in self._events:
            if any(name == "load" for _, name in event["targets"]):
                async for _ in self._run(event, [], None):
                    pass

    async def say(self, text: str, model: str = "pocket") -> Answered:
        """Send a message in a new conversation."""
        box = self._ids["message"]
        [event] = [found for found in self._events if [box, "submit"] in found["targets"]]
        place = event["outputs"].index(self._ids["chat"])
        began, first_s, said = time.perf_counter(), 0.0, ""
        async for output in self._run(event, [text, "", None, model, *SETTINGS], box):
            part = output["data"][place]
            if not first_s and _has_answer(part):
                first_s = time.perf_counter() - began
            said = _last(part) or said
        return Answered(first_s, time.perf_counter() - began, said)

    async def _run(self, event: dict[str, Any], data: list[Any], trigger: int | None) -> AsyncIterator[dict[str, Any]]:
        body = {"data": data, "fn_index": event["id"], "session_hash": self._session, "trigger_id": trigger}
        (await self._client.post("/gradio_api/queue/join", json=body)).raise_for_status()
        async with self._client.stream("GET", f"/gradio_api/queue/data?session_hash={self._session}") as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():  # to its end: leaving sooner ends the session for the next message
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] in ("process_generating", "process_completed"):
                    assert message["success"], message
                    yield message["output"]
                elif message["msg"] in ("unexpected_error", "queue_full"):
                    raise AssertionError(message)


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visit]:
    """Load the page."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        page = (await client.get("/")).raise_for_status().text
        config, _ = json.JSONDecoder().raw_decode(page, page.index(CONFIG) + len(CONFIG))
        yield Visit(client, config)


def _has_answer(part: Any) -> bool:
    """Whether the chat's new value, or the change of it, has text of a second message."""
    if isinstance(part, list) and part and isinstance(part[0], list):  # changes: [how, where, what]
        return any(where[:1] == [1] and "text" in where and what for _, where, what in part)
    return bool(_last(part))


def _last(part: Any) -> str:
    if not isinstance(part, list) or not part or not isinstance(part[-1], dict):
        return ""
    return str(part[-1]["content"][0]["text"]) if part[-1]["role"] == "assistant" else ""
