"""A server of OpenAI's protocol for tests of clients: every byte of its answers is the test's own.

It speaks HTTP by hand, so that answers can be cut, wrong or late where no library would let them.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Answer = Callable[[Asked], AsyncIterator[bytes]]


def head(status: int = 200, content_type: str = "text/event-stream", **headers: str) -> bytes:
    """The beginning of an answer that ends with its connection."""
    lines = [f"HTTP/1.1 {status} Some Reason", f"Content-Type: {content_type}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + HEAD_END


def whole(body: Any, status: int = 200, **headers: str) -> bytes:
    """An answer of JSON."""
    return head(status, "application/json", **headers) + json.dumps(body).encode()


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def piece(text: str = "", finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
    """A chunk that fits chats and completions alike."""
    choice = {"index": 0, "delta": {"content": text}, "text": text, "finish_reason": finish}
    return event({"choices": [choice], "usage": usage})


def usage(prompt: int, answer: int, cached: int | None = None) -> bytes:
    """The last chunk of a stream that was asked for usage."""
    found: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": answer}
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    return event({"choices": [], "usage": found})


DONE = event(b"[DONE]")


async def answer_as_asked(asked: Asked) -> AsyncIterator[bytes]:
    """A well-behaved stream of max_tokens pieces, with usage."""
    n = asked.body["max_tokens"]
    yield head() + piece()
    for i in range(n):
        yield piece(f" {i}", finish="length" if i == n - 1 else None)
    yield usage(n_prompt_tokens(asked), n) + DONE


def n_prompt_tokens(asked: Asked) -> int:
    """BOS, and a token a word; two more for a chat's template. Ids are as many as they are."""
    prompt = asked.body.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    return len(prompt.split()) + 1 if prompt is not None else len(asked.body["messages"][-1]["content"].split()) + 3


def tokenize(asked: Asked) -> bytes:
    """In vLLM's dialect."""
    n = n_prompt_tokens(asked)
    return whole({"count": n, "tokens": list(range(n)), "max_model_len": 4096})


@dataclass
class FakeServer:
    """What the server does, and what it has seen.

    answer       of the two routes that generate
    small        other paths -> the whole answer's bytes; what is not there is 404
    asked        requests to the routes that generate, in order
    most_at_once of those, how many were under way at one time
    """

    answer: Answer = answer_as_asked
    small: dict[str, Callable[[Asked], bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    url: str = ""
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        models = {"object": "list", "data": [{"id": "fake-1", "object": "model"}, {"id": "fake-2", "object": "model"}]}
        self.small = {"/v1/models": lambda _: whole(models)} | self.small

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with one request."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            asked = await _read(reader)
            if asked.path in ("/v1/completions", "/v1/chat/completions"):
                self.asked.append(asked)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    async for part in self.answer(asked):
                        writer.write(part)
                        await writer.drain()
                finally:
                    self.at_once -= 1
            else:
                small = self.small.get(asked.path)
                writer.write(small(asked) if small else whole({"error": "not found"}, 404))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as tests of cancelling want it to
        finally:
            self.connections.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    first, *lines = (await reader.readuntil(HEAD_END)).decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    data = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, json.loads(data) if data else None)


@asynccontextmanager
async def serving(fake: FakeServer) -> AsyncIterator[FakeServer]:
    """The server on a free port of the loopback address, in this event loop."""
    server = await asyncio.start_server(fake.connected, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        await server.wait_closed()
        under_way = list(fake.connections)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


@contextmanager
def serving_thread(fake: FakeServer) -> Iterator[FakeServer]:
    """The same in a thread of its own, for commands that run an event loop themselves."""
    loop = asyncio.new_event_loop()
    ready, end = threading.Event(), asyncio.Event()

    async def main() -> None:
        async with serving(fake):
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield fake
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
