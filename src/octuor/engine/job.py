"""A request under way: its times, its counts, its choices; and what it tells its caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from octuor.engine.answer import Answer
from octuor.engine.request import Event, Request, TokenInfo
from octuor.engine.runner import Result
from octuor.engine.scheduler import Work
from octuor.engine.sequence import Sequence
from octuor.routing.values import TokenRoutes
from octuor.sampling import describe

if TYPE_CHECKING:
    from octuor.adapters import LoadedAdapter

Deliver = Callable[[Event], None]


class EngineJob:
    """See request.Job. Made by Engine.submit; all but `cancel` belongs to the engine's thread.

    adapter  in use until the job is over
    answers  a running or waiting sequence -> its words; those that ended are gone
    prompt   the prompt's tokens with their log-probabilities, where they were asked for
    routes   of its tokens after the cached ones, where they were asked for
    """

    def __init__(self, request: Request, deliver: Deliver, on_cancel: Callable[[EngineJob], None]) -> None:
        self.request = request
        self.adapter: LoadedAdapter | None = None
        self.prompt_tokens = len(request.prompt.ids)
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.arrived_at = time.perf_counter()
        self.started_at = self.first_token_at = self.finished_at = 0.0
        self.answers: dict[Sequence, Answer] = {}
        self.is_cancelled = False
        self.is_prefilled = False
        self.prompt: list[TokenInfo] = []
        self.routes: TokenRoutes | None = None
        self._sum: NDArray[np.float64] | None = None  # [D] of hidden states read so far
        self._deliver = deliver
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        """End it now, from any thread; no Event comes after."""
        self.is_cancelled = True
        self._on_cancel(self)

    def tell(self, event: Event) -> None:
        """Hand an event to the caller, unless it has turned away."""
        if not self.is_cancelled:
            self._deliver(event)

    def read(self, part: Work, result: Result) -> None:
        """Take in what was asked for of some prompt tokens beside their keys and values."""
        if part.sequence.is_reader:
            self._read_rows(part, result)
        if result.routes is not None:
            self._record(part, result.routes)

    def mean(self) -> NDArray[np.float32]:
        """[D] float32 of length 1: the direction of the mean of all hidden states."""
        assert self._sum is not None
        return (self._sum / max(float(np.linalg.norm(self._sum)), 1e-30)).astype(np.float32)

    def _read_rows(self, part: Work, result: Result) -> None:
        """Where every token's result is wanted. A pause begins it anew."""
        start, ids = part.runs[0].start, part.sequence.ids
        if start == 0:
            self._sum = np.zeros(result.hidden.shape[1])
            self.prompt = [TokenInfo(ids[0])]
        if self._sum is not None:
            self._sum += result.hidden.sum(axis=0, dtype=np.float64)
        if self.request.prompt_logprobs is not None:
            for at, row in enumerate(result.logits[: self.prompt_tokens - 1 - start], start=start + 1):
                sample = describe(row, ids[at], self.request.prompt_logprobs)
                self.prompt.append(TokenInfo(ids[at], sample.logprob, sample.top))

    def _record(self, part: Work, routes: TokenRoutes) -> None:
        """After a pause some tokens come again, with the routes they had, and no token is left out between."""
        if self.routes is None:
            shape = (self.prompt_tokens - self.cached_tokens, *routes.experts.shape[1:])
            self.routes = TokenRoutes(np.zeros(shape, np.int16), np.zeros(shape, np.float32))
        begin, end = part.runs[0].start - self.cached_tokens, part.runs[-1].stop - self.cached_tokens
        new = routes[max(0, -begin) :]
        self.routes.experts[max(0, begin) : max(0, end)] = new.experts
        self.routes.weights[max(0, begin) : max(0, end)] = new.weights
        part.sequence.n_recorded = max(part.sequence.n_recorded or 0, part.runs[-1].stop)
