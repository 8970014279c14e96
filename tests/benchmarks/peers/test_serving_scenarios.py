"""What is measured of servers, against one whose answers are the test's; and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import serving_scenarios as scenarios
from fake_openai import DONE, Asked, FakeServer, head, piece, serving_thread, usage
from serving_report import Found, text
from serving_scenarios import Arrival, Prefix, StepCost, Waits

ROW: dict[str, Any] = {
    "concurrency": 8, "answer_tokens_per_s": 30.0, "requests_per_s": 0.2, "seconds": 60.0,
    "stream_tokens_per_s": {"p50": 4.0}, "first_token_s": {"p50": 9.0, "p95": 12.0, "p99": 14.0},
    "inter_token_s": {"p50": 0.1, "p95": 0.2, "p99": 0.3},
    "client": {"cpu_share": 0.01, "late_s": {"p99": 0.001}},
}  # fmt: skip


def test_answers_of_streams() -> None:
    with serving_thread(FakeServer()) as fake:
        row = scenarios.answers(fake.url, 3, 2, prompt=20, answer=5, seed=1)
    assert (row["concurrency"], row["succeeded"], row["answer_tokens"], row["prompt_tokens"]) == (3, 6, 30, 120)
    body = fake.asked[-1].body
    assert (len(body["prompt"]), body["ignore_eos"], body["top_k"]) == (20, True, 40)


def test_answers_that_are_too_short_are_no_figures() -> None:
    async def short(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a", "stop") + usage(20, 1) + DONE

    with serving_thread(FakeServer(short)) as fake, pytest.raises(RuntimeError, match="expected 4 answers of 5 tokens"):
        scenarios.answers(fake.url, 1, 1, prompt=20, answer=5, seed=1)


class Talkative(FakeServer):
    """Answers of a token every few milliseconds without end, but for prompts that are long."""

    def __init__(self, long: int) -> None:
        super().__init__(self.talk)
        self.long = long

    async def talk(self, asked: Asked) -> AsyncIterator[bytes]:
        yield head()
        if len(asked.body["prompt"]) >= self.long:
            await asyncio.sleep(0.1)  # while others go on
            yield piece(" a") + piece(" b", "length") + DONE
            return
        while True:
            yield piece(" a")
            await asyncio.sleep(0.005)


def test_a_long_prompt_among_streams() -> None:
    with serving_thread(Talkative(300)) as fake:
        came = scenarios.arrival(fake.url, 3, 300, seed=1)
    assert [len(asked.body["prompt"]) for asked in fake.asked] == [64, 64, 64, 300]
    assert came.first_token_s >= 0.1
    assert came.before.n >= 3 * (scenarios.TOKENS_BEFORE - 2)
    assert 0 < came.during.n < came.all.n
    assert came.all.n >= came.before.n + came.during.n
    assert 0 < came.all.p50_s <= came.all.p99_s <= came.all.most_s


def test_streams_that_end_are_no_figures() -> None:
    async def short(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a", "length") + DONE

    with serving_thread(FakeServer(short)) as fake, pytest.raises(RuntimeError, match="one has ended"):
        scenarios.arrival(fake.url, 1, 300, seed=1)


def test_a_beginning_that_comes_again() -> None:
    seen: list[list[int]] = []

    async def remembers(asked: Asked) -> AsyncIterator[bytes]:
        prompt = asked.body["prompt"]
        known = any(prompt[:50] == other[:50] for other in seen)
        seen.append(prompt)
        await asyncio.sleep(0.0 if known else 0.05)
        yield head() + piece(" a", "length") + usage(60, 1, 50 if known else 0) + DONE

    with serving_thread(FakeServer(remembers)) as fake:
        found = scenarios.prefix(fake.url, 50, 10, repeats=3, seed=1)
    assert [len(prompt) for prompt in seen] == [50, *[60] * 6]
    assert (len(found.cold_s), len(found.warm_s), found.cached_tokens) == (3, 3, 50)
    assert min(found.cold_s) >= 0.05
    assert found.ratio > 1


METRICS = """
# TYPE octuor_engine_steps_total counter
octuor_engine_steps_total{model_name="m"} 12.0
octuor_step_seconds_total{model_name="m",part="forward"} 3.5
octuor_step_seconds_total{model_name="m",part="choose"} 0.25
octuor_step_seconds_total{model_name="m",part="overhead"} 0.0625
octuor_http_requests_total{route="/v1/models"} 7.0
"""


def test_metrics_of_steps() -> None:
    found = scenarios.read_metrics(METRICS)
    assert found == {"steps": 12.0, "forward": 3.5, "choose": 0.25, "overhead": 0.0625}
    with pytest.raises(RuntimeError, match="expected Octuor's metrics"):
        scenarios.read_metrics("llamacpp:prompt_tokens_total 3\n")


def test_the_cost_of_a_step() -> None:
    """Between two looks: 10 steps of 4 ms overhead, 100 ms forward and 10 ms choosing."""
    looks = 0

    def metrics(_: Asked) -> bytes:
        nonlocal looks
        looks += 1
        values = {"overhead": 0.004, "forward": 0.1, "choose": 0.01}
        lines = [f"octuor_engine_steps_total {10 * looks}"]
        lines += [f'octuor_step_seconds_total{{part="{part}"}} {10 * looks * each}' for part, each in values.items()]
        return head(200, "text/plain") + "\n".join(lines).encode()

    fake = Talkative(300)
    fake.small["/metrics"] = metrics
    with serving_thread(fake):
        cost = scenarios.step_cost(fake.url, 2, seed=1, seconds=0.05)
    assert (cost.streams, cost.steps) == (2, 10)
    assert (cost.overhead_ms, cost.forward_ms, cost.choose_ms) == pytest.approx((4.0, 100.0, 10.0))


def test_the_section_of_a_run() -> None:
    waits = Waits(100, 0.1, 0.25, 0.3)
    found = Found(
        "octuor",
        [(1, "octuor", ROW), (1, "llama", ROW | {"answer_tokens_per_s": 10.0}), (2, "octuor", ROW)],
        [(1, "octuor", Arrival(waits, waits, waits, 14.0))],
        [(1, "octuor", Prefix((4.0, 5.0, 6.0), (0.5, 0.5, 1.0), 992))],
        [(1, "octuor", StepCost(32, 90, 0.4, 220.0, 9.0))],
        ["round 2 llama answers: /a/b/llama-server ended"],
    )
    said = text("title", {"command": "serving.py --gguf /a/b/x.gguf"}, found)
    assert "| 8 | 30.0 (30.0-30.0) | 10.0 | 3.00 | 9.00 (9.00-9.00) | 9.00 |" in said
    assert "- octuor, gaps during: p50 100.0 ms, p99 250.0 ms, p99/p50 2.50" in said
    assert "that is new 5.000 s, again 0.500 s, ratio 10.0" in said
    assert "a step of 32 sequences: overhead 0.400 ms, forward 220.000 ms, choosing 9.000 ms" in said
    assert "round 2 llama answers: llama-server ended" in said
    assert "/a/b" not in said
