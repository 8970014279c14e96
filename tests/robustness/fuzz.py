"""Send a route what hypothesis makes of its body, many times over, to a server over a real engine in this process."""

from __future__ import annotations

import json
import time
from collections import Counter

import httpx
from hypothesis import HealthCheck, Phase, given, settings

from octuor.engine.engine import Engine
from robustness.bodies import bodies
from server.http_client import JSON, Client, error_of, events_of

ANSWER = "Hi! How are you today?"
TGI_PATHS = ("/", "/generate", "/generate_stream")
REFUSALS = {400, 404, 413, 415, 422, 429}
IDLE_WITHIN_S = 30.0


def fuzz(client: Client, path: str, n_examples: int) -> Counter[int]:
    """How often each status came; the same bodies each time. AssertionError for an answer that nobody may get."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=n_examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(path))
    def send(body: bytes) -> None:
        answer = client.request("POST", path, content=body, headers=JSON)
        statuses[answer.status_code] += 1
        check_answer(path, answer)

    send()
    check_well(client)
    return statuses


def check_answer(path: str, answer: httpx.Response) -> None:
    """Raise AssertionError for a status that no body may bring about, or what clients of the path cannot read."""
    if answer.status_code != 200:
        assert answer.status_code in REFUSALS, answer.text
        assert len(answer.content) < 20_000
        if path in TGI_PATHS:
            assert isinstance(answer.json()["error"], str)
        else:
            error_of(answer, answer.status_code)
    elif answer.headers["content-type"] == "application/json":
        answer.json()
    elif path in TGI_PATHS:
        frames = answer.text.removesuffix("\n\n").split("\n\n")
        events = [json.loads(frame.removeprefix("data: ")) for frame in frames]
        assert all("error" not in event for event in events)
        assert events[-1]["generated_text"] is not None
    else:
        *events, end = events_of(answer)
        assert end == "[DONE]"
        assert all("error" not in event for event in events)


def check_well(client: Client) -> None:
    """Raise AssertionError where a plain question is not answered as ever, or something is still held."""
    answer = client.chat(temperature=0)
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    engine = client.serving.models().default.engine
    assert isinstance(engine, Engine)
    until = time.monotonic() + IDLE_WITHIN_S
    while (stats := engine.stats()).running + stats.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert (stats.running, stats.waiting, stats.pages_held) == (0, 0, 0)
