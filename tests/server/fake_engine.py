"""An engine that says what it is told, from a thread of its own, for tests of the HTTP side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from octuor.engine.engine import EngineStats
from octuor.engine.request import Event, Failed, Finish, FinishReason, Pooled, Prefilled, Request, Step, TokenInfo
from octuor.errors import OctuorError, OverloadError

Script = Callable[[Request], Iterator[Event]]
N_TOP_GAP = 0.5  # each alternative is this much less likely than the one before


@dataclass
class FakeJob:
    """A job as the contract has it; `cancelled` is set by cancel."""

    request: Request
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    arrived_at: float = field(default_factory=time.perf_counter)
    started_at: float = 0.0
    first_token_at: float = 0.0
    finished_at: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.cancelled.set()


class FakeEngine:
    """Plays a script for each request. `requests` and `jobs` hold what was asked, in order.

    refuses  raised by submit, from the request after n_accepted on
    """

    def __init__(
        self, script: Script, *, n_context: int = 1024, refuses: OctuorError | None = None, n_accepted: int = 0
    ) -> None:
        self.script = script
        self.n_context = n_context
        self.refuses = refuses
        self.n_accepted = n_accepted
        self.requests: list[Request] = []
        self.jobs: list[FakeJob] = []

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> FakeJob:
        if self.refuses is not None and len(self.jobs) >= self.n_accepted:
            raise self.refuses
        job = FakeJob(request, prompt_tokens=len(request.prompt.ids))
        self.requests.append(request)
        self.jobs.append(job)
        threading.Thread(target=self._play, args=(job, deliver), daemon=True).start()
        return job

    @property
    def is_idle(self) -> bool:
        return all(job.finished_at or job.cancelled.is_set() for job in self.jobs)

    def stats(self) -> EngineStats:
        """Those that the jobs tell; of the cache's pages, half."""
        open_jobs = sum(not (job.finished_at or job.cancelled.is_set()) for job in self.jobs)
        prompt, cached = (sum(getattr(job, name) for job in self.jobs) for name in ("prompt_tokens", "cached_tokens"))
        return EngineStats(
            running=open_jobs,
            waiting=0,
            pages=10,
            pages_held=5,
            pages_used=7,
            pages_known=3,
            steps=len(self.jobs),
            preemptions=0,
            prefix_tokens=prompt,
            prefix_tokens_cached=cached,
            prompt_tokens=prompt - cached,
            completion_tokens=sum(job.completion_tokens for job in self.jobs),
            forward_s=1.0,
            choose_s=0.5,
            overhead_s=0.25,
        )

    def drain(self) -> None:
        self.refuses = OverloadError("about to stop", is_draining=True)

    def stop(self) -> None:
        for job in self.jobs:
            job.cancel()

    def _play(self, job: FakeJob, deliver: Callable[[Event], None]) -> None:
        job.started_at = time.perf_counter()
        n_owed = job.request.n
        for event in self.script(job.request):
            if job.cancelled.is_set():
                return
            if isinstance(event, Prefilled):
                job.cached_tokens = event.cached_tokens
            if isinstance(event, Step) and event.token is not None:
                job.completion_tokens += 1
                job.first_token_at = job.first_token_at or time.perf_counter()
            n_owed -= isinstance(event, Step) and event.finish is not None
            if n_owed == 0 or isinstance(event, Pooled | Failed):  # known before the last is told, as the engine has it
                job.finished_at = time.perf_counter()
            deliver(event)
        job.finished_at = job.finished_at or time.perf_counter()


# ---- scripts -------------------------------------------------------------------------------------


def says(
    *tokens: str | tuple[int, str],
    reason: FinishReason = "stop",
    stop: str | None = None,
    cached: int = 0,
    dim: int = 8,
) -> Script:
    """Every choice says the tokens, each a text or an id with its text, and ends with the last, or at max_tokens.

    Pooled requests get a vector of zeros with a one where their length says.
    """
    pairs = [token if isinstance(token, tuple) else (1000 + place, token) for place, token in enumerate(tokens)]

    def script(request: Request) -> Iterator[Event]:
        if request.pooled:
            vector = np.zeros(dim, np.float32)
            vector[len(request.prompt.ids) % dim] = 1
            yield Pooled(vector)
            return
        yield Prefilled(cached, read_prompt(request))
        limit = request.params.max_tokens
        if limit == 0:
            for choice in range(request.n):
                yield Step(choice, None, "", Finish("length"))
            return
        said = pairs if limit is None else pairs[:limit]
        for place, (token_id, text) in enumerate(said):
            finish = None
            if place == len(said) - 1:
                finish = Finish(reason, stop) if len(said) == len(pairs) else Finish("length")
            for choice in range(request.n):
                yield Step(choice, info(token_id, request.params.logprobs), text, finish)

    return script


def info(token_id: int, n_top: int | None) -> TokenInfo:
    """A token that is the likeliest, with the ids after it as alternatives."""
    top = tuple((token_id + rank, -0.5 - N_TOP_GAP * rank) for rank in range(n_top or 0))
    return TokenInfo(token_id, None if n_top is None else -0.5, top)


def read_prompt(request: Request) -> tuple[TokenInfo, ...]:
    """What Prefilled tells of a prompt."""
    n_top = request.prompt_logprobs
    if n_top is None:
        return ()
    first, *others = request.prompt.ids
    return (TokenInfo(first), *(info(token_id, n_top) for token_id in others))


def plays(*events: Event | threading.Event) -> Script:
    """Events as they are; a threading.Event is waited for."""

    def script(request: Request) -> Iterator[Event]:  # noqa: ARG001
        for event in events:
            if isinstance(event, threading.Event):
                event.wait(20)
            else:
                yield event

    return script


def step(text: str, *, choice: int = 0, token_id: int = 1000, finish: Finish | None = None) -> Step:
    """A step with a token that has a log-probability."""
    return Step(choice, info(token_id, 0), text, finish)


def steps(texts: Sequence[str]) -> list[Step]:
    """One choice's steps, the last with its end."""
    *before, last = texts
    return [*(step(text) for text in before), step(last, finish=Finish("stop"))]
