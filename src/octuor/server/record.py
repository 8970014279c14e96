"""What is known of one HTTP request once it is answered: filled by routes, read by logs, metrics and accounting."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from octuor.engine.request import FinishReason, Job
from octuor.server.trace_context import TraceContext

if TYPE_CHECKING:
    from octuor.server.errors import ApiError


@dataclass
class RequestRecord:
    """One HTTP request. Tokens and times are the jobs' own and stay true while they run.

    request_id     given by the client or made
    method, path   as asked for, without the query
    route          the path's pattern, of which there are few; "" where no route was reached
    client         address of the peer, or of the one that a trusted proxy names
    status         of the answer; 499: the client left before there was one
    began_at, ended_at  time.perf_counter() seconds; ended_at 0.0 before the end
    trace          where in a trace the caller stands, as it says in `traceparent`
    key            name of the API key; "" without keys
    model          the loaded model's own name; "" where none was meant
    asked          the name that the client used for it
    adapter        the one of the model's that it asks for; None: the model's own choice
    is_stream      the answer is an event stream
    jobs           what the engine was asked for
    finished       why each choice ended
    error          what was answered, or broke a stream off
    is_client_gone the client closed the connection before the end, or was cut off
    cut_off        why it was
    """

    request_id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    client: str = ""
    status: int = 0
    began_at: float = field(default_factory=time.perf_counter)
    ended_at: float = 0.0
    trace: TraceContext | None = None
    key: str = ""
    model: str = ""
    asked: str = ""
    adapter: str | None = None
    is_stream: bool = False
    jobs: list[Job] = field(default_factory=list)
    finished: list[FinishReason] = field(default_factory=list)
    error: ApiError | None = None
    is_client_gone: bool = False
    cut_off: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each counted once whatever n is."""
        return sum(job.prompt_tokens for job in self.jobs)

    @property
    def cached_tokens(self) -> int:
        """Of the prompts, those that were not computed again."""
        return sum(job.cached_tokens for job in self.jobs)

    @property
    def completion_tokens(self) -> int:
        """Of all choices of all prompts."""
        return sum(job.completion_tokens for job in self.jobs)

    @property
    def queue_s(self) -> float | None:
        """Seconds that the last of the prompts waited for its first step; None: none has begun."""
        waits = [job.started_at - job.arrived_at for job in self.jobs if job.started_at]
        return max(waits, default=None)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the request's beginning to its first token; None: there is none."""
        times = [job.first_token_at for job in self.jobs if job.first_token_at]
        return min(times) - self.began_at if times else None


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """The record of the request that an ASGI scope is about, made when it is first asked for."""
    state = scope.setdefault("state", {})
    record: RequestRecord = state.setdefault("record", RequestRecord())
    return record
