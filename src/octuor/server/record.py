"""What is known of one HTTP request once it is answered: filled by routes, read by logs, metrics and accounting."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from octuor.engine.request import FinishReason, Job

if TYPE_CHECKING:
    from octuor.server.errors import ApiError


@dataclass
class RequestRecord:
    """One HTTP request. Tokens and times are the jobs' own and stay true while they run.

    request_id     given by the client or made
    key            name of the API key; "" without keys
    model          the loaded model's own name; "" where none was meant
    asked          the name that the client used for it
    is_stream      the answer is an event stream
    jobs           what the engine was asked for
    finished       why each choice ended
    error          what was answered, or broke a stream off
    is_client_gone the client closed the connection before the end
    """

    request_id: str = ""
    key: str = ""
    model: str = ""
    asked: str = ""
    is_stream: bool = False
    jobs: list[Job] = field(default_factory=list)
    finished: list[FinishReason] = field(default_factory=list)
    error: ApiError | None = None
    is_client_gone: bool = False

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


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """The record of the request that an ASGI scope is about, made when it is first asked for."""
    state = scope.setdefault("state", {})
    record: RequestRecord = state.setdefault("record", RequestRecord())
    return record
