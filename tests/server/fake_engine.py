"""An engine that says what it is told, from a thread of its own, for tests of the HTTP side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from octuor.engine.request import Event, Finish, Pooled, Prefilled, Request, Step, TokenInfo
from octuor.errors import OctuorError

Script = Callable[[Request], Iterator[Event]]


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


def says(*texts: str, reason: str = "stop", cached: int = 0, dim: int = 8) -> Script:
    """Every choice says the texts, a token each, then ends without another token's text; pooled: a unit vector."""

    def script(request: Request) -> Iterator[Event]:
        if request.pooled:
            vector = np.zeros(dim, np.float32)
            vector[len(request.prompt.ids) % dim] = 1
            yield Pooled(vector)
            return
        n_top = request.params.logprobs
        prompt: tuple[TokenInfo, ...] = ()
        if request.prompt_logprobs is not None:
            prompt = tuple(
                TokenInfo(id, None if place == 0 else -1.5, ((id, -1.5),) * min(1, request.prompt_logprobs))
                for place, id in enumerate(request.prompt.ids)
            )
        yield Prefilled(cached, prompt)
        limit = request.params.max_tokens
        if limit == 0:
            for choice in range(request.n):
                yield Step(choice, None, "", Finish("length"))
            return
        wanted = texts if limit is None else texts[:limit]
        for place, text in enumerate(wanted):
            is_last = place == len(wanted) - 1
            finish = Finish(reason if len(wanted) == len(texts) else "length") if is_last else None  # type: ignore[arg-type]
            for choice in range(request.n):
                known = n_top is not None
                top = tuple((1000 + place + rank, -0.5 - rank) for rank in range(n_top or 0))
                yield Step(choice, TokenInfo(1000 + place, -0.5 if known else None, top), text, finish)

    return script


class FakeEngine:
    """Plays a script for each request. `requests` and `jobs` hold what was asked, in order.

    refuses  raised by submit
    """

    def __init__(self, script: Script, *, refuses: OctuorError | None = None, n_context: int = 1024) -> None:
        self.script = script
        self.n_context = n_context
        self.refuses = refuses
        self.requests: list[Request] = []
        self.jobs: list[FakeJob] = []

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> FakeJob:
        if self.refuses is not None:
            raise self.refuses
        job = FakeJob(request, prompt_tokens=len(request.prompt.ids))
        self.requests.append(request)
        self.jobs.append(job)
        threading.Thread(target=self._play, args=(job, deliver), daemon=True).start()
        return job

    def _play(self, job: FakeJob, deliver: Callable[[Event], None]) -> None:
        job.started_at = time.perf_counter()
        for event in self.script(job.request):
            if job.cancelled.is_set():
                return
            if isinstance(event, Prefilled):
                job.cached_tokens = event.cached_tokens
            if isinstance(event, Step) and event.token is not None:
                job.completion_tokens += 1
                job.first_token_at = job.first_token_at or time.perf_counter()
            deliver(event)
        job.finished_at = time.perf_counter()


def waits_after(events: Sequence[Event], cancelled_by: threading.Event) -> Script:
    """Some events, then nothing until the test sets the flag."""

    def script(request: Request) -> Iterator[Event]:  # noqa: ARG001
        yield from events
        cancelled_by.wait(10)

    return script
