"""Answers' routings are cut and put together so that each token of a conversation is there once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from octuor.errors import UiError
from octuor.routing import Alternatives, Routing
from octuor.ui.backend import ChatSettings, User
from octuor.ui.conversations import Conversations, Turn
from octuor.ui.observing import Observatory, Scope, last_answer, picked, whole_conversation


def routing(ids: range, experts: int = 8, width: int = 2) -> Routing:
    """Tokens that can be told by their ids in every array."""
    n = len(ids)
    numbers = np.array(ids, dtype=np.int32)
    return Routing(
        ids=numbers,
        pieces=tuple(map(str, ids)),
        experts=np.repeat((numbers % experts).astype(np.int16), 6).reshape(n, 3, 2),
        weights=np.repeat(numbers.astype(np.float32), 6).reshape(n, 3, 2),
        n_experts=experts,
        logprobs=-numbers.astype(np.float32),
        alternatives=Alternatives(
            np.repeat(numbers, width).reshape(n, width),
            np.full((n, width), -1, np.float32),
            tuple((str(number),) * width for number in ids),
        ),
    )


class Kept:
    """A conversation: questions and answers by their places, with what of the prompt was in the cache."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.routings: dict[int, Routing] = {}

    def add(self, prompt: int, said: int, cached: int, **arguments: int) -> None:
        n = len(self.turns)
        self.turns.append(Turn("user", "?"))
        self.turns.append(Turn("assistant", "!", prompt_tokens=prompt, completion_tokens=said, id=n + 1))
        if said:
            self.routings[n + 1] = routing(range(cached, prompt + said - 1), **arguments)

    def read(self, turn: Turn) -> Routing | None:
        return self.routings.get(turn.id)


@pytest.fixture
def kept() -> Kept:
    kept = Kept()
    kept.add(prompt=10, said=5, cached=0)
    kept.add(prompt=20, said=4, cached=8, width=1)
    return kept


def same(one: Routing, ids: range) -> bool:
    expected = routing(ids)
    return (
        one.ids.tolist() == list(ids)
        and one.pieces == expected.pieces
        and one.routes == expected.routes
        and np.array_equal(one.logprobs, expected.logprobs)
        and one.alternatives.ids[:, 0].tolist() == list(ids)
        and [row[0] for row in one.alternatives.pieces] == list(expected.pieces)
    )


def test_the_last_answer_is_without_its_prompt(kept: Kept) -> None:
    found = last_answer(kept.turns, kept.read)
    assert found is not None
    assert same(found, range(20, 23))  # the fourth token was never computed
    found = last_answer(kept.turns[:2], kept.read)
    assert found is not None
    assert same(found, range(10, 14))


def test_a_conversation_has_each_token_once(kept: Kept) -> None:
    found = whole_conversation(kept.turns, kept.read)
    assert found is not None
    assert same(found, range(23))


def test_tokens_that_nothing_was_recorded_of_are_left_out() -> None:
    kept = Kept()
    kept.add(prompt=10, said=5, cached=4)
    kept.add(prompt=30, said=3, cached=20)
    found = whole_conversation(kept.turns, kept.read)
    assert found is not None
    assert found.ids.tolist() == [*range(4, 14), *range(20, 32)]


def test_answers_without_routing_are_passed_over_in_a_conversation_only(kept: Kept) -> None:
    kept.turns += [Turn("user", "?"), Turn("assistant", "stopped", completion_tokens=3)]
    assert last_answer(kept.turns, kept.read) is None
    found = whole_conversation(kept.turns, kept.read)
    assert found is not None
    assert same(found, range(23))


def test_a_question_alone_has_nothing_to_see() -> None:
    turns = [Turn("user", "?")]
    assert last_answer(turns, lambda _: None) is None
    assert whole_conversation(turns, lambda _: None) is None
    assert last_answer((), lambda _: None) is None


def test_answers_of_another_model_are_left_out(kept: Kept) -> None:
    kept.add(prompt=30, said=3, cached=0, experts=4)
    found = whole_conversation(kept.turns, kept.read)
    assert found is not None
    assert found.n_experts == 4
    assert found.ids.tolist() == list(range(32))


def test_an_answer_of_one_token_has_none_that_was_computed() -> None:
    kept = Kept()
    kept.add(prompt=6, said=1, cached=0)
    found = last_answer(kept.turns, kept.read)
    assert found is not None
    assert len(found) == 0


def test_a_prompt_that_was_gone_on_with_belongs_to_the_answer(kept: Kept) -> None:
    """The turn counts what was said before it was gone on with; the routing begins in the middle of it."""
    turn = replace(kept.turns[3], prompt_tokens=20, completion_tokens=9)
    part = routing(range(24, 28))
    found = last_answer([*kept.turns[:3], turn], lambda _: part)
    assert found is not None
    assert same(found, range(24, 28))
    whole = whole_conversation([*kept.turns[:3], turn], lambda each: part if each is turn else kept.read(each))
    assert whole is not None
    assert whole.ids.tolist() == [*range(14), *range(24, 28)]


# ---- what is shown -------------------------------------------------------------------------------


class Told:
    """A backend that routes any text in one way."""

    def __init__(self, found: bytes | UiError | None = None) -> None:
        self.found = found
        self.asked: list[tuple[str, str]] = []

    async def route(self, user: User, model: str, text: str) -> bytes | None:  # noqa: ARG002
        self.asked.append((model, text))
        if isinstance(self.found, UiError):
            raise self.found
        return self.found


ADA = User("a" * 43)


@pytest.fixture
def conversations(tmp_path: Path) -> Iterator[Conversations]:
    database = Conversations(tmp_path / "ui.sqlite3")
    yield database
    database.close()


def shown(conversations: Conversations, scope: Scope, conversation: str, user: User = ADA) -> str:
    observatory = Observatory(Told(), conversations)  # type: ignore[arg-type]
    return asyncio.run(observatory.kept(user, scope, conversation, "en"))


def test_kept_answers_are_shown_to_their_owner_alone(conversations: Conversations, kept: Kept) -> None:
    talk = conversations.create(ADA.owner, "Talk", "pocket", ChatSettings())
    turns = [replace(turn, id=0, routing=_packed(kept, turn)) for turn in kept.turns]
    conversations.replace_from(ADA.owner, talk.id, 0, turns)
    assert shown(conversations, "answer", talk.id).count('class="tok"') == 3
    assert shown(conversations, "conversation", talk.id).count('class="tok"') == 23
    assert "Nothing to see yet" in shown(conversations, "answer", talk.id, User("b" * 43))
    assert "Nothing to see yet" in shown(conversations, "answer", "")


def _packed(kept: Kept, turn: Turn) -> bytes | None:
    found = kept.read(turn)
    return None if found is None else found.to_bytes()


@pytest.mark.parametrize(
    ("routing", "says"),
    [(None, "has no routes"), (routing(range(4)).to_bytes(), "has no routes"), (b"<i>broken</i>", "expected what")],
)
def test_a_line_says_why_there_is_nothing(conversations: Conversations, routing: bytes | None, says: str) -> None:
    talk = conversations.create(ADA.owner, "Talk", "pocket", ChatSettings())
    answer = Turn("assistant", "!", prompt_tokens=4, completion_tokens=1, routing=routing)
    conversations.replace_from(ADA.owner, talk.id, 0, [Turn("user", "?"), answer])
    markup = shown(conversations, "answer", talk.id)
    assert says in markup
    assert markup.startswith("<p")
    assert "<i>" not in markup


def routed(backend: Told, text: str) -> str:
    observatory = Observatory(backend, None)  # type: ignore[arg-type]
    return asyncio.run(observatory.routed(ADA, "pocket", text, "en"))


def test_any_text_goes_through_the_chosen_model() -> None:
    backend = Told(routing(range(5)).to_bytes())
    assert routed(backend, "a dog").count('class="tok"') == 5
    assert backend.asked == [("pocket", "a dog")]


def test_what_cannot_be_routed_is_one_line() -> None:
    assert "tells no routes" in routed(Told(), "a dog")
    assert "&lt;busy&gt;" in routed(Told(UiError("<busy>")), "a dog")
    assert routed(Told(), "  ") == ""
    backend = Told()
    assert "expected at most 20000 characters, found 20001" in routed(backend, "x" * 20_001)
    assert not backend.asked


def test_picked_tokens_keep_all_that_is_known_of_them() -> None:
    assert same(picked(routing(range(9)), np.arange(3, 7)), range(3, 7))
