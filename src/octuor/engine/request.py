"""What callers ask of the engine and what it tells them: plain values. Knows no HTTP and no scheduling.

A caller submits a Request and gets Events: first Prefilled, then a Step for each token of each choice, the last of a
choice with its Finish; or Pooled, where a vector was asked for. Failed may come at any time and is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from octuor.errors import OctuorError
from octuor.routing.values import TokenRoutes
from octuor.sampling import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Prompt:
    """What is to be continued.

    ids     token ids as they are, BOS among them
    spoken  parts of ids that the model said in earlier turns, EOS included. They are computed token by token, as they
            were then: the same numbers, bit by bit, whether their keys and values are still cached or not
    """

    ids: Sequence[int]
    spoken: Sequence[range] = ()


class Matcher(Protocol):
    """Where one answer stands in a grammar. Used by one thread at a time."""

    def mask(self) -> NDArray[np.bool_]:
        """[V] bool: the ids that may come next, EOS where the answer may end. Called beside the forward pass."""

    def advance(self, token_id: int) -> None:
        """Take one id that mask allowed; the end is no id to take."""


class Grammar(Protocol):
    """A compiled constraint on answers; shared by all choices of a request."""

    def matcher(self) -> Matcher:
        """A matcher at the beginning of an answer."""


@dataclass(frozen=True)
class Request:
    """One caller's wish.

    params           as for one answer; max_tokens None is to the end of the context
    n                choices; each draws its own random numbers under the seed
    tenant           who asks: waiting requests of different tenants take turns by the tokens they have had
    grammar          what answers must match; None: anything
    prompt_logprobs  None, or how many alternatives to tell with each prompt token's log-probability
    pooled           True: no answer, but the mean of the last hidden states, of length 1
    routes           True: tell which experts play each token, in Prefilled and in each Step; mixtures only
    adapter          the name of one of the model's; None: the model's own choice
    is_chat          True: an answer in a chat, whose first piece carries a blank that is not part of it
    name             the request id, for logs
    """

    prompt: Prompt
    params: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    tenant: str = ""
    grammar: Grammar | None = None
    prompt_logprobs: int | None = None
    pooled: bool = False
    routes: bool = False
    adapter: str | None = None
    is_chat: bool = False
    name: str = ""


@dataclass(frozen=True)
class TokenInfo:
    """A token with its log-probability under the model's own logits.

    logprob  None for a prompt's first token, which nothing foretells, and where it was not asked for
    top      the likeliest ids with theirs, as many as were asked for
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finish:
    """Why a choice ended.

    reason  "stop": EOS, a stop id or a stop string; "length": max_tokens or the context's end; "cancelled"
    stop    the stop string that ended it; None: another reason
    """

    reason: FinishReason
    stop: str | None = None


@dataclass(frozen=True)
class Prefilled:
    """The prompt has been read.

    cached_tokens  of the prompt, whose keys and values lay in the cache already
    prompt         one TokenInfo a prompt token where prompt_logprobs asked for it, else ()
    routes         of the prompt's tokens after the cached ones, where they were asked for
    """

    cached_tokens: int
    prompt: tuple[TokenInfo, ...] = ()
    routes: TokenRoutes | None = None


@dataclass(frozen=True)
class Step:
    """One more token of one choice.

    token   None only where the choice ended without one (max_tokens 0)
    text    what it adds to the answer: "" while a character or a stop string may still be completed, more than the
            token's own where it is certain now. Never a part of a stop string
    finish  set on the last Step of the choice
    routes  of the token before this one (its pass foretold this one), where they were asked for. None in a choice's
            first Step: there it is the prompt's last token, whose routes Prefilled has. So Prefilled's and all Steps'
            joined are those of the prompt, but for cached tokens, and of the answer, but for its last token, which
            is never computed
    """

    choice: int
    token: TokenInfo | None
    text: str = ""
    finish: Finish | None = None
    routes: TokenRoutes | None = None


@dataclass(frozen=True)
class Pooled:
    """The vector of a pooled request: [D] float32 of length 1."""

    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Failed:
    """The request cannot be answered to its end; neighbours are not disturbed."""

    error: OctuorError


Event = Prefilled | Step | Pooled | Failed


class Job(Protocol):
    """A request under way, as its caller sees it. Times are time.perf_counter() seconds, 0.0 before they come.

    arrived_at, started_at, first_token_at, finished_at  submitted; taken from the queue; first Step; last Event
    """

    request: Request
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    arrived_at: float
    started_at: float
    first_token_at: float
    finished_at: float

    def cancel(self) -> None:
        """End it now, from any thread, at any time; no Event comes after. Its pages are free by the next step."""
