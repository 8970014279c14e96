"""What the page asks and is told: plain values and the seam behind which the models are. Knows no Gradio, no HTTP.

async with aclosing(backend.chat(user, ask)) as parts:  # left in any way, the answer ends at once
    async for part in parts: ...                         # Delta after Delta, then one Done
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from octuor.errors import UiError
from octuor.experts.store import StoreStats

Role = Literal["system", "user", "assistant"]
Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Range:
    """What one setting may be, and the step of its slider."""

    least: float
    most: float
    step: float


# The settings of the well-known Mixtral demo; max_new_tokens goes up to the model's context.
RANGES: Mapping[str, Range] = {
    "temperature": Range(0.0, 1.0, 0.05),
    "max_new_tokens": Range(1, 2**20, 1),
    "top_p": Range(0.05, 1.0, 0.05),
    "top_k": Range(0, 1000, 1),
    "repetition_penalty": Range(1.0, 2.0, 0.05),
    "seed": Range(0, 2**32 - 1, 1),
}


@dataclass(frozen=True)
class ChatSettings:
    """How an answer is made. The defaults are those of the well-known Mixtral demo.

    system              text before the conversation; "": none
    temperature         0 always takes the likeliest token
    max_new_tokens      of the answer; what the context leaves where that is less
    top_p               keep the likeliest tokens with this much probability together
    top_k               keep this many of the likeliest; 0: all
    repetition_penalty  above 1, tokens that were there become less likely
    seed                the same one gives the same answer; None: another one each time

    Raises UiError that names the setting.
    """

    system: str = ""
    temperature: float = 0.9
    max_new_tokens: int = 256
    top_p: float = 0.90
    top_k: int = 50
    repetition_penalty: float = 1.2
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None and not allowed.least <= value <= allowed.most:
                raise UiError(f"{name}: expected {allowed.least:g} to {allowed.most:g}, found {value:g}")


@dataclass(frozen=True)
class User:
    """Whose page it is.

    browser  a random id that one browser keeps
    key      the API key that was given, and is good now; None: none is needed, or none was given
    key_id   its public part; "" for none
    client   the browser's address
    """

    browser: str
    key: str | None = field(default=None, repr=False)
    key_id: str = ""
    client: str = ""

    @property
    def owner(self) -> str:
        """Whose the conversations are: the key's wherever it is used from, else this browser's."""
        return f"key:{self.key_id}" if self.key_id else f"browser:{self.browser}"


@dataclass(frozen=True)
class ModelCard:
    """A model that may be asked.

    context      tokens of prompt and answer together; None: the address does not tell
    can_observe  Done brings its routing
    """

    name: str
    context: int | None
    can_observe: bool


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Ask:
    """One question.

    model      a ModelCard's name
    messages   the conversation, the newest last; the system text is the settings' and not among them
    continues  the last message is the assistant's and is to be gone on with
    """

    model: str
    messages: Sequence[Message]
    settings: ChatSettings
    continues: bool = False


@dataclass(frozen=True)
class TokenSeen:
    """The token that a Delta comes from, where the backend tells.

    piece    its own text
    logprob  under the model's own logits, before settings; None: not told
    top      likely pieces with theirs, the likeliest first
    """

    id: int
    piece: str
    logprob: float | None = None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """More of the answer. text may be "" while a character is not whole."""

    text: str
    token: TokenSeen | None = None


@dataclass(frozen=True)
class Done:
    """The answer's end.

    reason             "stop": by itself; "length": max_new_tokens or the context; "cancelled": by the server
    prompt_tokens      as the server counts; None: it does not tell
    completion_tokens  likewise
    seconds            from the first token to the last: completion_tokens - 1 of them over this is the speed
    first_token_s      from the question to the first token
    routing            octuor.routing.Routing.to_bytes() of prompt and answer; None: not observed
    ignored            names of settings that the server does not take
    """

    reason: Reason
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    first_token_s: float
    routing: bytes | None = field(default=None, repr=False)
    ignored: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of the answer's tokens after the first; None where there is nothing to tell it by."""
        n = self.completion_tokens
        return (n - 1) / self.seconds if n is not None and n > 1 and self.seconds > 0 else None


@dataclass(frozen=True, eq=False)
class ModelStatus:
    """How one model stands; bytes and counts as /metrics has them.

    resident             [L, E] bool: the expert is in memory
    expert_bytes         of all experts
    held_bytes           of those in memory
    other_bytes          of all weights that are no experts'
    cache_pages          of keys and values, in all
    pages_used           that hold something, remembered beginnings too
    pages_known          of remembered beginnings
    page_tokens          positions in a page
    page_bytes           that a page takes once it is used
    tokens_per_s         of all answers together, over the last seconds; None: not known yet
    prompt_tokens_per_s  of all prompts, likewise, those found in the cache left out
    running              answers that are being computed
    waiting              requests that wait for a place
    store                of experts under a limit of memory; None: they are mapped, and the system decides
    """

    name: str
    resident: NDArray[np.bool_]
    expert_bytes: int
    held_bytes: int
    other_bytes: int
    cache_pages: int
    pages_used: int
    pages_known: int
    page_tokens: int
    page_bytes: int
    tokens_per_s: float | None
    prompt_tokens_per_s: float | None
    running: int
    waiting: int
    store: StoreStats | None = None


@dataclass(frozen=True)
class Status:
    """How the server stands.

    process_bytes   of memory that this process takes
    limit_bytes     that it may take; None: no limit but the machine's
    headroom_bytes  that it may still take
    """

    models: tuple[ModelStatus, ...]
    process_bytes: int
    limit_bytes: int | None
    headroom_bytes: int


class Backend(Protocol):
    """Where the models are. All methods raise UiError with one line to be shown, and nothing else."""

    async def models(self, user: User) -> Sequence[ModelCard]:
        """Those that this user may ask, the default one first."""

    def chat(self, user: User, ask: Ask) -> AsyncGenerator[Delta | Done, None]:
        """Answer: Delta after Delta, at last one Done. Closing it early ends the work at once, and brings no Done."""

    async def route(self, user: User, model: str, text: str) -> bytes | None:
        """Send any text through a model: octuor.routing.Routing.to_bytes() of all of it, BOS first.

        None: the model has no routes, or it is at an address that does not tell them.
        """

    async def status(self, user: User) -> Status | None:
        """How the server stands; None: an address that does not tell."""
