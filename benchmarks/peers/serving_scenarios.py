"""What is measured of a server: streams at once, a long prompt among them, a beginning that comes again, a step's cost.

All by the requests of `octuor bench serve`, on random token ids.
"""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from octuor.bench.serve.answer import Answer, read_answer
from octuor.bench.serve.calls import Shape
from octuor.bench.serve.client import Client, connect
from octuor.bench.serve.exchange import Call, Exchange
from octuor.bench.serve.lengths import Uniform
from octuor.bench.serve.report import row_json
from octuor.bench.serve.run import Load
from octuor.bench.serve.session import Settings, load_test
from octuor.bench.serve.words import Prompt

IDS = range(1000, 32000)
SAMPLING = {"temperature": 1.0, "top_k": 40, "top_p": 1.0, "min_p": 0.0}  # the same of all
# Bytes of characters that are not complete are held back by servers: without them each token is a piece of text,
# and a gap between pieces is one between tokens.
NO_BYTES = {"logit_bias": {str(token_id): -100 for token_id in range(3, 259)}}
LEAST_REQUESTS = 4
POLL_S = 0.02
WAIT_S = 1800.0
TOKENS_BEFORE = 32  # of each stream, before the long prompt arrives or steps are counted
ENDLESS = 4096  # tokens of answers that are cancelled


def answers(url: str, streams: int, per_stream: int, prompt: int, answer: int, seed: int) -> dict[str, Any]:
    """The row of a load test of so many streams, as row_json has it; raises RuntimeError where requests failed."""
    load = Load(streams, requests=max(LEAST_REQUESTS, per_stream * streams), warmup=1)
    settings = Settings(
        url, (load,), "completions", prompt=Uniform(prompt, prompt), answer=Uniform(answer, answer),
        ids=IDS, ignore_eos=True, extra=SAMPLING, seed=seed, timeout_s=WAIT_S,
    )  # fmt: skip
    row = row_json(asyncio.run(load_test(settings, stop=asyncio.Event())).rows[0])
    if row["errors"] or row["answer_tokens"] != row["requests"] * answer:
        raise RuntimeError(f"expected {row['requests']} answers of {answer} tokens, found {row}")
    return row


@dataclass(frozen=True)
class Waits:
    """Between tokens of the streams: seconds."""

    n: int
    p50_s: float
    p99_s: float
    most_s: float

    @classmethod
    def of(cls, gaps: Sequence[float]) -> Waits:
        """Raises RuntimeError of none."""
        if not gaps:
            raise RuntimeError("expected tokens in that time, found none")
        p50, p99 = np.percentile(gaps, (50, 99)).tolist()
        return cls(len(gaps), p50, p99, max(gaps))


@dataclass(frozen=True)
class Arrival:
    """A long prompt that arrives among streams: their waits before it, until its first token, and in all.

    first_token_s  of the long prompt
    """

    before: Waits
    during: Waits
    all: Waits
    first_token_s: float


def arrival(url: str, streams: int, prompt: int, seed: int) -> Arrival:
    """A prompt of so many tokens arrives when each of so many streams has answered TOKENS_BEFORE, and is answered."""
    return asyncio.run(_arrival(url, streams, prompt, seed))


async def _arrival(url: str, streams: int, prompt: int, seed: int) -> Arrival:
    rng = np.random.default_rng(seed)
    async with connect(url, "completions", timeout_s=WAIT_S) as client:
        shape = await _shape(client, SAMPLING | NO_BYTES)
        under_way = [Exchange(_call(shape, 64, ENDLESS, rng)) for _ in range(streams)]
        long = Exchange(_call(shape, prompt, 2, rng))
        sending = [asyncio.create_task(client.send(exchange)) for exchange in under_way]
        await _until(lambda: min(len(exchange.chunks) for exchange in under_way) > TOKENS_BEFORE, sending)
        arrived_s = client.clock()
        await client.send(long)
        await asyncio.sleep(1.0)  # a few tokens afterwards
        _check_running(sending)
        await _cancel(sending)
    came = read_answer(long)
    if came.first_token_s is None:
        raise RuntimeError(f"expected an answer to the long prompt, found {came}")
    first_s = arrived_s + came.first_token_s
    pairs = [pair for exchange in under_way for pair in _pairs(read_answer(exchange))]
    began_s = max(read_answer(exchange).text_s[0] for exchange in under_way)  # from here on, all of them answer
    return Arrival(
        Waits.of([b - a for a, b in pairs if began_s <= a and b <= arrived_s]),
        Waits.of([b - a for a, b in pairs if arrived_s < b and a < first_s]),
        Waits.of([b - a for a, b in pairs if began_s <= a]),
        came.first_token_s,
    )


@dataclass(frozen=True)
class Prefix:
    """Seconds to the first token of prompts with a beginning that is new, and of others with the same one."""

    cold_s: tuple[float, ...]
    warm_s: tuple[float, ...]
    cached_tokens: int | None

    @property
    def ratio(self) -> float:
        """How many times sooner, medians."""
        return median(self.cold_s) / median(self.warm_s)


def prefix(url: str, shared: int, own: int, repeats: int, seed: int) -> Prefix:
    """Prompts of a shared beginning and an end of their own, two for each of so many beginnings, one after another."""
    return asyncio.run(_prefix(url, shared, own, repeats, seed))


async def _prefix(url: str, shared: int, own: int, repeats: int, seed: int) -> Prefix:
    rng = np.random.default_rng(seed)
    found: tuple[list[float], list[float]] = ([], [])
    cached = None
    async with connect(url, "completions", timeout_s=WAIT_S) as client:
        shape = await _shape(client, SAMPLING | NO_BYTES)
        await client.send(Exchange(_call(shape, shared, 4, rng)))  # a warm-up
        for _ in range(repeats):
            beginning = _ids(shared, rng)
            for times in found:
                exchange = Exchange(shape.call(Prompt([*beginning, *_ids(own, rng)]), 4))
                await client.send(exchange)
                answer = read_answer(exchange)
                if answer.first_token_s is None:
                    raise RuntimeError(f"expected an answer, found {answer}")
                times.append(answer.first_token_s)
                cached = answer.cached
    return Prefix(tuple(found[0]), tuple(found[1]), cached)


@dataclass(frozen=True)
class StepCost:
    """Milliseconds of a step of so many sequences, means: scheduling, the forward pass, choosing tokens."""

    streams: int
    steps: int
    overhead_ms: float
    forward_ms: float
    choose_ms: float


def step_cost(url: str, streams: int, seed: int, *, seconds: float = 20.0) -> StepCost:
    """What Octuor's /metrics say of the steps in so many seconds in which so many streams answer."""
    return asyncio.run(_step_cost(url, streams, seed, seconds))


async def _step_cost(url: str, streams: int, seed: int, seconds: float) -> StepCost:
    rng = np.random.default_rng(seed)
    async with connect(url, "completions", timeout_s=WAIT_S) as client:
        shape = await _shape(client, SAMPLING)
        under_way = [Exchange(_call(shape, 16, ENDLESS, rng)) for _ in range(streams)]
        sending = [asyncio.create_task(client.send(exchange)) for exchange in under_way]
        await _until(lambda: min(len(exchange.chunks) for exchange in under_way) > TOKENS_BEFORE // 2, sending)
        before = await asyncio.to_thread(_metrics, url)
        await asyncio.sleep(seconds)
        after = await asyncio.to_thread(_metrics, url)
        _check_running(sending)
        await _cancel(sending)
    steps = after["steps"] - before["steps"]
    each = {part: 1e3 * (after[part] - before[part]) / steps for part in ("overhead", "forward", "choose")}
    return StepCost(streams, int(steps), each["overhead"], each["forward"], each["choose"])


def _metrics(url: str) -> dict[str, float]:
    """Octuor's count of steps, and their seconds by part."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        return read_metrics(answer.read().decode())


def read_metrics(text: str) -> dict[str, float]:
    """The same from the text of /metrics."""
    steps = re.findall(r"^octuor_engine_steps_total(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    parts = re.findall(r'^octuor_step_seconds_total\{.*part="(\w+)".*\} (\S+)$', text, re.MULTILINE)
    if len(steps) != 1 or len(parts) != 3:
        raise RuntimeError("expected Octuor's metrics of steps by part, found others")
    return {"steps": float(steps[0]), **{part: float(value) for part, value in parts}}


async def _shape(client: Client, extra: dict[str, Any]) -> Shape:
    """Requests of the first model."""
    model = (await client.ask("GET", "/v1/models")).body["data"][0]["id"]
    return Shape("completions", model, Uniform(1, 1), ignore_eos=True, extra=extra)


def _ids(n: int, rng: np.random.Generator) -> list[int]:
    return rng.integers(IDS.start, IDS.stop, n).tolist()


def _call(shape: Shape, prompt: int, answer: int, rng: np.random.Generator) -> Call:
    return shape.call(Prompt(_ids(prompt, rng), prompt), answer)


def _pairs(answer: Answer) -> Iterable[tuple[float, float]]:
    """Times of pieces that follow each other."""
    return zip(answer.text_s, answer.text_s[1:], strict=False)


async def _until(is_so: Callable[[], bool], sending: Sequence[asyncio.Task[None]]) -> None:
    while not is_so():
        _check_running(sending)
        await asyncio.sleep(POLL_S)


def _check_running(sending: Sequence[asyncio.Task[None]]) -> None:
    """Raise RuntimeError if a request has ended, as what is measured would not be what it is called."""
    if any(task.done() for task in sending):
        raise RuntimeError("expected streams that go on, one has ended")


async def _cancel(sending: Sequence[asyncio.Task[None]]) -> None:
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
