"""A model under test is asked each question once, also over runs, and answers as it does alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.api import Model
from octuor.errors import RequestError
from octuor.evaluate.journal import Journal
from octuor.evaluate.likelihood import Continuation
from octuor.evaluate.subject import MAX_BATCH, Reply, Subject, Wish
from octuor.sampling import SamplingParams
from under_test import Says

GREEDY = SamplingParams(temperature=0.0, max_tokens=4)


def test_answers_are_those_of_each_prompt_alone(random_model: Model) -> None:
    wishes = [Wish((1, n, n + 7), GREEDY) for n in range(5, 2 * MAX_BATCH + 10)]
    with Subject(random_model) as subject:
        replies = subject.answer(wishes)
    for wish, reply in list(zip(wishes, replies, strict=True))[::23]:
        assert reply.text == "".join(token.text for token in random_model.generate(wish.ids, GREEDY))
    assert {reply.n_tokens for reply in replies} == {4}


def test_an_answer_ends_where_it_is_told_to(says: Says) -> None:
    with says("one two three") as subject:
        plain, stopped = subject.answer(
            [
                Wish((1,), SamplingParams(max_tokens=9, stop=stop, temperature=0.0), is_chat=True)
                for stop in ((), (" three",))
            ]
        )
    assert plain == Reply("one two three", 4, "stop")
    assert stopped.text == "one two"


def test_nothing_is_asked_twice(random_model: Model, tmp_path: Path) -> None:
    items = [Continuation((1, 5), (n,)) for n in range(6)]
    wishes = [Wish((1, n), GREEDY) for n in range(5)]
    seen: list[tuple[int, int]] = []
    with Journal(tmp_path / "j", {}) as journal, Subject(random_model, journal=journal) as subject:
        scores, replies = subject.score(items[:3] * 2), subject.answer(wishes[:2])
        assert scores[:3] == scores[3:]
    with Journal(tmp_path / "j", {}) as journal, Subject(random_model, journal=journal) as subject:
        assert subject.score(items, lambda done, total: seen.append((done, total)))[:3] == scores[:3]
        assert subject.answer(wishes)[:2] == replies
        assert subject.n_known == 5
    assert seen == [(4, 6), (5, 6), (6, 6)]


def test_too_long_a_prompt_loses_its_beginning(random_model: Model) -> None:
    ids = tuple(range(3, 700))
    with Subject(random_model) as subject:
        assert subject.answer([Wish(ids, GREEDY)]) == subject.answer([Wish(ids[-508:], GREEDY)])
        assert subject.score([Continuation(ids, (9, 8))]) == subject.score([Continuation(ids[-511:], (9, 8))])
        with pytest.raises(RequestError, match="expected fewer than 513 tokens, found 697"):
            subject.score([Continuation((1,), ids)])
        with pytest.raises(RequestError, match="max_tokens"):
            subject.answer([Wish((1,), SamplingParams())])
