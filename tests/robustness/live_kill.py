"""kill -9 under load: what a client has read to its end is on record after the next start; `make test-robust`."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serve_process import ServeProcess, octuor_at, serve_process

N_CLIENTS = 8
ROUNDS = 5
ANSWERS_A_ROUND = 60
WITHIN_S = 120.0
BODY = {"model": "mistral-tiny", "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 12}


@dataclass
class Tally:
    """What all clients together have sent, and what has come back whole."""

    sent: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def begun(self) -> None:
        with self.changed:
            self.sent += 1

    def ended(self, usage: dict[str, int]) -> None:
        """An answer was read to its end."""
        with self.changed:
            self.requests += 1
            self.prompt_tokens += usage["prompt_tokens"]
            self.completion_tokens += usage["completion_tokens"]
            self.changed.notify_all()

    def wait_for(self, requests: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.requests >= requests, WITHIN_S)


def ask_on_and_on(url: str, key: str, tally: Tally, *, stream: bool) -> None:
    """One client: request after request until its server is gone."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=WITHIN_S) as client:
        while True:
            tally.begun()
            try:
                if stream:
                    usage = read_stream(client)
                else:
                    usage = client.post("/v1/chat/completions", json=BODY).raise_for_status().json()["usage"]
            except httpx.TransportError:
                return
            tally.ended(usage)


def read_stream(client: httpx.Client) -> dict[str, int]:
    """The usage of a stream that has come to its [DONE]; TransportError where it has not."""
    usage: dict[str, int] = {}
    with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as answer:
        for line in answer.raise_for_status().iter_lines():
            if line == "data: [DONE]":
                return usage
            if line:
                usage = json.loads(line.removeprefix("data: ")).get("usage") or usage
    raise httpx.ReadError("the stream has no end")


def kill_under_load(server: ServeProcess, key: str, tally: Tally) -> None:
    clients = [
        threading.Thread(target=ask_on_and_on, args=(server.url, key, tally), kwargs={"stream": bool(n % 2)})
        for n in range(N_CLIENTS)
    ]
    wanted = tally.requests + ANSWERS_A_ROUND
    for client in clients:
        client.start()
    came = tally.wait_for(wanted)
    server.process.kill()
    server.process.wait()
    for client in clients:
        client.join(WITHIN_S)
    assert came
    assert not any(client.is_alive() for client in clients)


def test_every_acknowledged_answer_is_on_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = octuor_at(tmp_path, "keys", "create", "load").strip()
    tally = Tally()
    for _ in range(ROUNDS):
        with serve_process(tmp_path) as server:
            kill_under_load(server, key, tally)
    with serve_process(tmp_path) as server:
        server.post("/v1/chat/completions", BODY, key)
        rows = json.loads(octuor_at(tmp_path, "keys", "usage", "load", "--json"))["usage"]
    requests, prompt_tokens, completion_tokens = (
        sum(row[name] for row in rows) for name in ("requests", "prompt_tokens", "completion_tokens")
    )
    with capsys.disabled():
        print(f"\n{tally.sent} requests sent in {ROUNDS} rounds, {tally.requests} answered, {requests - 1} on record")
    assert tally.requests >= ROUNDS * ANSWERS_A_ROUND
    assert tally.requests < requests <= tally.sent + 1
    assert prompt_tokens > tally.prompt_tokens
    assert completion_tokens > tally.completion_tokens
