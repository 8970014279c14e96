"""What the observatory looks at: the last answer, a conversation put together from its answers, or any text.

A kept routing is of the tokens that were computed for an answer: the end of its prompt, for the beginning may have
been in the cache, and the answer but for its last token, which is never computed. T tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octuor.errors import OctuorError, UiError
from octuor.routing import Alternatives, Routing
from octuor.ui.backend import Backend, User
from octuor.ui.conversations import Conversations, Turn
from octuor.ui.observatory_html import view
from octuor.ui.texts import Language, say

Scope = Literal["answer", "conversation", "text"]
MAX_TEXT = 20_000  # characters of a text that is sent through


@dataclass(frozen=True)
class Observatory:
    """What the tab's functions need. Used by all pages at once."""

    backend: Backend
    conversations: Conversations

    async def kept(self, user: User, scope: Scope, conversation: str, language: Language) -> str:
        """The view of an answer or a conversation, or a line that says why there is none."""
        return await asyncio.to_thread(self._kept, user.owner, scope, conversation, language)

    async def routed(self, user: User, model: str, text: str, language: Language) -> str:
        """The view of any text, or a line that says why there is none."""
        if not text.strip():
            return ""
        try:
            if len(text) > MAX_TEXT:
                raise UiError(f"text: expected at most {MAX_TEXT} characters, found {len(text)}; shorten it")
            found = await self.backend.route(user, model, text)
        except UiError as error:
            return line(str(error), "failed")
        if found is None:
            return line(say(language, "cannot_observe"))
        return await asyncio.to_thread(lambda: view(Routing.from_bytes(found), language))

    def _kept(self, owner: str, scope: Scope, conversation: str, language: Language) -> str:
        turns = self.conversations.turns(owner, conversation) if conversation else ()
        if not any(turn.role == "assistant" for turn in turns):
            return line(say(language, "no_answer_yet"))

        def read(turn: Turn) -> Routing | None:
            found = self.conversations.routing(owner, turn.id) if turn.has_routing else None
            return None if found is None else Routing.from_bytes(found)

        try:
            routing = (whole_conversation if scope == "conversation" else last_answer)(turns, read)
        except OctuorError as error:
            return line(str(error), "failed")
        return view(routing, language) if routing is not None and len(routing) else line(say(language, "no_routes"))


def line(text: str, kind: str = "note") -> str:
    """A line in the place of a view."""
    return f'<p class="octuor-{kind}">{escape(text)}</p>'


@dataclass(frozen=True)
class Part:
    """An answer's routing and where its tokens stand.

    start   place of its first token in the conversation
    answer  how many of its tokens are the prompt's
    """

    routing: Routing
    start: int
    answer: int


def part_of(turn: Turn, routing: Routing) -> Part:
    """Where an answer's routing belongs, by what it took."""
    n_said = max((turn.completion_tokens or 1) - 1, 0)
    answer = max(len(routing) - n_said, 0)
    start = 0 if turn.prompt_tokens is None else max(turn.prompt_tokens + n_said - len(routing), 0)
    return Part(routing, start, answer)


def last_answer(turns: Sequence[Turn], read: Callable[[Turn], Routing | None]) -> Routing | None:
    """The tokens of the last answer alone; None where it has no routing."""
    turn = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
    routing = None if turn is None else read(turn)
    if turn is None or routing is None:
        return None
    part = part_of(turn, routing)
    return picked(routing, np.arange(part.answer, len(routing)))


def whole_conversation(turns: Sequence[Turn], read: Callable[[Turn], Routing | None]) -> Routing | None:
    """All tokens that are known, in order and once each; None where none are.

    Where answers are of different models, those of the last one's. What lay in the cache from elsewhere, such as a
    system text that others have too, is missing.
    """
    parts: list[Part] = []
    for turn in turns:
        routing = read(turn) if turn.role == "assistant" else None
        if routing is not None:
            parts.append(part_of(turn, routing))
    if not parts:
        return None
    last = parts[-1].routing
    return joined([part for part in parts if _is_alike(part.routing, last)])


def joined(parts: Sequence[Part]) -> Routing:
    """One routing of several of one text, later ones instead of earlier ones where they have the same places."""
    places = np.concatenate([part.start + np.arange(len(part.routing)) for part in parts])
    newest = {int(place): n for n, place in enumerate(places)}
    return picked(_concatenated([part.routing for part in parts]), np.array([n for _, n in sorted(newest.items())]))


def picked(routing: Routing, tokens: NDArray[np.int64]) -> Routing:
    """Those tokens alone, by their places in it."""
    ids, logprobs, pieces = routing.alternatives
    return replace(
        routing,
        ids=routing.ids[tokens],
        pieces=tuple(routing.pieces[n] for n in tokens),
        experts=routing.experts[tokens],
        weights=routing.weights[tokens],
        logprobs=routing.logprobs[tokens],
        alternatives=Alternatives(ids[tokens], logprobs[tokens], tuple(pieces[n] for n in tokens)),
    )


def _concatenated(routings: Sequence[Routing]) -> Routing:
    width = max(routing.alternatives.ids.shape[1] for routing in routings)
    others = [_widened(routing.alternatives, width) for routing in routings]
    return replace(
        routings[0],
        ids=np.concatenate([routing.ids for routing in routings]),
        pieces=tuple(piece for routing in routings for piece in routing.pieces),
        experts=np.concatenate([routing.experts for routing in routings]),
        weights=np.concatenate([routing.weights for routing in routings]),
        logprobs=np.concatenate([routing.logprobs for routing in routings]),
        alternatives=Alternatives(
            np.concatenate([other.ids for other in others]),
            np.concatenate([other.logprobs for other in others]),
            tuple(row for other in others for row in other.pieces),
        ),
    )


def _widened(other: Alternatives, width: int) -> Alternatives:
    more = ((0, 0), (0, width - other.ids.shape[1]))
    return Alternatives(
        np.pad(other.ids, more),
        np.pad(other.logprobs, more, constant_values=np.nan),
        tuple(row + ("",) * more[1][1] for row in other.pieces),
    )


def _is_alike(one: Routing, other: Routing) -> bool:
    return one.experts.shape[1:] == other.experts.shape[1:] and one.n_experts == other.n_experts
