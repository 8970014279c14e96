"""Log-likelihoods are those of each text alone, to the last bit, whatever is shared and wherever passes end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from octuor.api import Model
from octuor.errors import RequestError
from octuor.evaluate import likelihood
from octuor.evaluate.likelihood import Continuation, Score, Scorer
from octuor.ops.native import NativeOps
from tiny_models import TINY, random_checkpoint


@pytest.fixture(scope="module")
def model() -> Model:
    config = replace(TINY, vocab_size=300, n_layers=1)
    return Model(random_checkpoint(config, tokenizer=False), NativeOps(threads=2), context=None, cache_dtype="f32")


def alone(model: Model, item: Continuation) -> Score:
    """By definition: one pass over the whole text."""
    ids = (*item.context, *item.ids)
    rows = model.logits(ids[:-1])[len(item.context) - 1 :]
    highest = rows.max(axis=1)
    total = np.log(np.exp(rows - highest[:, None]).sum(axis=1, dtype=np.float64))
    found = [
        float(row[token]) - float(top) - float(part)
        for row, token, top, part in zip(rows, item.ids, highest, total, strict=True)
    ]
    total_logprob = 0.0
    for value in found:
        total_logprob += value
    return Score(total_logprob, bool((rows.argmax(axis=1) == np.asarray(item.ids)).all()))


def some_items(rng: np.random.Generator) -> list[Continuation]:
    """Questions after shared examples, each with answers of several lengths, and texts with nothing in common."""

    def draw(n: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(3, 300, n))

    items = []
    examples = (1, *draw(75))
    for length in (1, 2, 9, 40):
        question = examples + draw(length)
        items += [Continuation(question, draw(n)) for n in (1, 1, 2, 2, 3, 30)]
    question = (1, *draw(3))
    items += [Continuation(question, draw(n)) for n in (1, 2, 5)]
    items += [Continuation((1,), draw(1)), Continuation((1,), draw(2)), Continuation((1,), draw(600))]
    items += [Continuation(items[0].context[:-1], (items[0].context[-1], *items[0].ids)), items[0]]
    return items


@pytest.mark.parametrize("window_tokens", [8192, 0])
def test_scores_are_those_of_each_text_alone(model: Model, monkeypatch: pytest.MonkeyPatch, window_tokens: int) -> None:
    monkeypatch.setattr(likelihood, "WINDOW_TOKENS", window_tokens)
    items = some_items(np.random.default_rng(1))
    scorer = Scorer(model, "f32")
    assert scorer.score(items) == [alone(model, item) for item in items]
    assert scorer.n_tokens < 0.6 * scorer.n_given


def test_scores_are_the_same_in_the_least_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    items = some_items(np.random.default_rng(3))
    expected = Scorer(model, "f32").score(items)
    monkeypatch.setattr(likelihood, "cache_room", lambda *_: 0)
    assert Scorer(model, "f32").score(items) == expected


def test_the_likeliest_continuation_is_greedy(model: Model) -> None:
    ids = [1, 73, 162]
    for _ in range(4):
        ids.append(int(model.logits(ids)[-1].argmax()))
    found = Scorer(model, "f32").score([Continuation(tuple(ids[:3]), tuple(ids[3:]))])
    assert found[0].is_greedy


def test_all_pages_come_back(model: Model) -> None:
    scorer = Scorer(model)
    scorer.score(some_items(np.random.default_rng(2)))
    cache = scorer._cache
    assert cache is not None
    assert cache.n_free_pages == cache.n_pages


def test_what_the_model_cannot_take_is_said(model: Model) -> None:
    with pytest.raises(RequestError, match="token id"):
        Scorer(model).score([Continuation((1,), (99999,))])
    with pytest.raises(RequestError, match="expected at most the context of 4096 tokens, found 4999"):
        Scorer(model).score([Continuation((1,), (5,) * 4999)])
