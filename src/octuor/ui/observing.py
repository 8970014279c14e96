"""What the observatory looks at: the last answer's tokens, or a conversation's, put together from its answers.

A kept routing is of the tokens that were computed for an answer: the end of its prompt, for the beginning may have
been in the cache, and the answer but for its last token, which is never computed. T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octuor.routing import Alternatives, Routing
from octuor.ui.conversations import Turn

Scope = Literal["answer", "conversation", "text"]


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
