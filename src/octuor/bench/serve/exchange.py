"""What is sent and what came of it, before anything is read out of it: bytes, and the times at which they came."""

from __future__ import annotations

from dataclasses import dataclass, field

NO_CONNECTION = "no connection"


@dataclass(frozen=True)
class Call:
    """One request, ready to be sent.

    body           JSON
    prompt_tokens  that it has by our own count; None: only the server can tell
    """

    body: bytes
    prompt_tokens: int | None = None


@dataclass
class Exchange:
    """One request and its answer as bytes. Times are seconds of one monotonic clock.

    times, chunks  the answer's body as it came, piece by piece, cut wherever the network cut it
    failure        "", or what ended it: NO_CONNECTION, "timeout" or "broken stream", with the library's words in detail
    is_cancelled   we ended it ourselves
    retry_after_s  what the server asked for in refusing; 0.0: nothing
    """

    call: Call
    sent_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    content_type: str = ""
    retry_after_s: float = 0.0
    times: list[float] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    failure: str = ""
    detail: str = ""
    is_cancelled: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether it is plain from the outside that this was no answer."""
        return bool(self.failure) or self.status != 200
