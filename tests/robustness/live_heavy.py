"""Bodies that are legal and huge, one after another, while somebody else chats; `make test-robust`.

Each is refused or answered in seconds, in bounded memory, and the neighbour reads the same answer as ever meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_process import ServeProcess, octuor_at, serve_process

WITHIN_S = 20.0  # for an answer; far more than any takes on an idle machine
NEIGHBOUR_WITHIN_S = 5.0  # for eight tokens of somebody else meanwhile
MEMORY_MB = 500.0  # beyond what the server had before the first of them
HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = "Hi! How are you today?"


def chat(**fields: Any) -> tuple[str, bytes]:
    return "/v1/chat/completions", json.dumps({"model": "mistral-tiny", "messages": HELLO, **fields}).encode()


def held_to(schema: object) -> tuple[str, bytes]:
    form = {"type": "json_schema", "json_schema": {"name": "held", "schema": schema}}
    return chat(response_format=form, max_tokens=8)


def matching(expression: str) -> tuple[str, bytes]:
    return chat(response_format={"type": "regex", "value": expression}, max_tokens=8)


def nested(depth: int, width: int) -> dict[str, Any]:
    """anyOf inside anyOf."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [{"type": "object", "properties": {f"p{n}": schema}} for n in range(width)]}
    return schema


def doubling(depth: int) -> dict[str, Any]:
    """A definition that takes the one below it twice: 2 ** depth if somebody writes it out."""
    below = [
        {"type": "object", "properties": {side: {"$ref": f"#/$defs/d{n + 1}"} for side in ("left", "right")}}
        for n in range(depth)
    ]
    definitions = {f"d{n}": schema for n, schema in enumerate([*below, {"type": "null"}])}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


HEAVY: dict[str, Callable[[], tuple[str, bytes]]] = {
    "a body over the limit": lambda: chat(user="a" * 17_000_000),
    "10 MB of stop strings": lambda: chat(stop=["stop"] * 1_250_000),
    "one stop string of 10 MB": lambda: chat(stop="a" * 10_000_000),
    "100,000 messages": lambda: chat(messages=[*HELLO, {"role": "assistant", "content": "Hi"}] * 50_000 + HELLO),
    "100,000 parts of a message": lambda: chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]
    ),
    "100,000 unknown fields": lambda: chat(**{f"field{n}": n for n in range(100_000)}, max_tokens=1),
    "100,000 tools": lambda: chat(tools=[{"type": "function", "function": {"name": "f"}}] * 100_000),
    "a million biases": lambda: chat(logit_bias={str(n): 1 for n in range(1_000_000)}),
    "a word of 15 MB": lambda: chat(messages=[{"role": "user", "content": "a" * 15_000_000}]),
    "15 MB of blanks": lambda: chat(messages=[{"role": "user", "content": " " * 15_000_000}]),
    "15 MB of text": lambda: chat(messages=[{"role": "user", "content": "word " * 3_000_000}]),
    "5 MB of rare characters": lambda: chat(messages=[{"role": "user", "content": "🦑" * 400_000}]),
    "a million token ids": lambda: (
        "/v1/completions",
        json.dumps({"model": "mistral-tiny", "prompt": [5] * 1_000_000}).encode(),
    ),
    "10,000 prompts": lambda: ("/v1/completions", json.dumps({"model": "x", "prompt": ["a"] * 10_000}).encode()),
    "10,000 texts to embed": lambda: (
        "/v1/embeddings",
        json.dumps({"model": "mistral-embed", "input": ["a"] * 10_000}).encode(),
    ),
    "15 MB for TGI": lambda: ("/generate", json.dumps({"inputs": "word " * 3_000_000}).encode()),
    "15 MB for TGI, cut": lambda: (
        "/generate",
        json.dumps({"inputs": "word " * 3_000_000, "parameters": {"truncate": 9, "max_new_tokens": 1}}).encode(),
    ),
    "15 MB to tokenize": lambda: ("/tokenize", json.dumps({"inputs": "word " * 3_000_000}).encode()),
    "0.5 MB to tokenize": lambda: ("/tokenize", json.dumps({"inputs": "a b c d " * 62_500}).encode()),
    "0.5 MB of rare characters to tokenize": lambda: ("/tokenize", json.dumps({"inputs": "🦑" * 125_000}).encode()),
    "0.5 MB of messages to tokenize": lambda: (
        "/chat_tokenize",
        json.dumps({"messages": [{"role": "user", "content": "a b c d " * 10}] * 6_250}).encode(),
    ),
    "5,000,000 ids to detokenize": lambda: ("/detokenize", json.dumps({"tokens": [5] * 5_000_000}).encode()),
    "a million ids to detokenize": lambda: ("/detokenize", json.dumps({"tokens": [1024] * 1_000_000}).encode()),
    "a million open brackets": lambda: ("/v1/chat/completions", b"[" * 1_000_000),
    "a million objects in each other": lambda: ("/v1/chat/completions", b'{"a":' * 1_000_000),
    "a number of a million digits": lambda: ("/v1/chat/completions", b'{"model": ' + b"9" * 1_000_000 + b"}"),
    "a schema of a hundred thousand branches": lambda: held_to(nested(5, 10)),
    "a schema that doubles 60 times": lambda: held_to(doubling(60)),
    "a schema of 50,000 properties": lambda: held_to(
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(50_000)}}
    ),
    "a schema of 100,000 words": lambda: held_to({"enum": [f"word{n}" for n in range(100_000)]}),
    "a schema of a million items": lambda: held_to({"type": "array", "minItems": 1_000_000, "items": {"type": "null"}}),
    "a schema of long strings": lambda: held_to({"type": "string", "minLength": 10**6, "maxLength": 10**8}),
    "a schema of hard patterns": lambda: held_to(
        {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{n}}}"} for n in range(10, 40)]}
    ),
    "an expression of many counts": lambda: matching("((a{1,500}){1,500}){1,500}"),
    "an expression of many states": lambda: matching("(a|b)*a(a|b){30}"),
    "an expression of 1 MB": lambda: matching("(abc|d)" * 150_000),
}  # fmt: skip


@dataclass
class Neighbour:
    """Somebody who chats all the time.

    worst_s  the longest answer since the last `mark`
    wrong    what was not the answer
    """

    url: str
    key: str
    worst_s: float = 0.0
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def chat(self) -> None:
        body = {"model": "mistral-tiny", "messages": HELLO, "temperature": 0}
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60) as client:
            while not self._ended.is_set():
                began = time.perf_counter()
                answer = client.post("/v1/chat/completions", json=body)
                self.worst_s = max(self.worst_s, time.perf_counter() - began)
                self.answers += 1
                if answer.status_code != 200 or answer.json()["choices"][0]["message"]["content"] != ANSWER:
                    self.wrong.append(answer.text)

    def mark(self) -> float:
        """worst_s, which begins anew."""
        worst, self.worst_s = self.worst_s, 0.0
        return worst

    def leave(self) -> None:
        self._ended.set()


def peak_mb(server: ServeProcess) -> float:
    """The most memory that the server has had, by Linux's account."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServeProcess, str, Neighbour, float]]:
    home = tmp_path_factory.mktemp("octuor")
    key = octuor_at(home, "keys", "create", "heavy").strip()
    with serve_process(home) as server:
        neighbour = Neighbour(server.url, key)
        thread = threading.Thread(target=neighbour.chat)
        thread.start()
        yield server, key, neighbour, peak_mb(server)
        neighbour.leave()
        thread.join()
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("name", HEAVY)
def test_it_is_over_soon(
    name: str, served: tuple[ServeProcess, str, Neighbour, float], capsys: pytest.CaptureFixture[str]
) -> None:
    server, key, neighbour, before_mb = served
    path, body = HEAVY[name]()
    neighbour.mark()
    began = time.perf_counter()
    answer = httpx.post(
        server.url + path,
        content=body,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        timeout=120,
    )
    seconds, worst_s = time.perf_counter() - began, neighbour.mark()
    with capsys.disabled():
        print(f"\n{name}: {answer.status_code} in {seconds:.2f} s; neighbour {worst_s:.2f} s; {peak_mb(server):.0f} MB")
    assert answer.status_code in (200, 400, 413, 422), answer.text
    assert len(answer.content) < 50_000_000
    assert seconds < WITHIN_S
    assert worst_s < NEIGHBOUR_WITHIN_S
    assert not neighbour.wrong
    assert peak_mb(server) < before_mb + MEMORY_MB


def test_the_neighbour_was_there(served: tuple[ServeProcess, str, Neighbour, float]) -> None:
    assert served[2].answers > len(HEAVY)
