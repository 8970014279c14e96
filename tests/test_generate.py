"""One answer at a time: how it begins, what each token carries, how it ends, and what it leaves in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from octuor.batch import whole
from octuor.cache import PAGE_SIZE
from octuor.checkpoint import Checkpoint
from octuor.errors import CheckpointError, RequestError
from octuor.generate import PREFILL_CHUNK, Context, Generation, OnPrefill, check_ids, generate
from octuor.logit_filters import log_softmax
from octuor.model import forward, logits
from octuor.ops import Ops
from octuor.ops.native import NativeOps
from octuor.sampling import SamplingParams, make_sampler
from octuor.tokenizer import Detokenizer
from tiny_models import EOS, SCRIPTED, TINY, checkpoint_of, random_checkpoint, scripted_checkpoint
from tokenizer_file import mixtral_tokenizer
from toys import random_values

SUM_ORDER = 1e-4  # float32 sums of up to some hundred terms, in another order; of log-probabilities of order 10
ROUNDED_CACHE = 2e-2  # keys and values kept as float16, relative step 5e-4, against float32 ones
GREEDY = SamplingParams(temperature=0, logprobs=0)


class Player:
    """A checkpoint on the native backend, and the one context that it answers from."""

    def __init__(self, checkpoint: Checkpoint, *, n_context: int = 256, cache_dtype: str = "f32") -> None:
        self.ops: Ops = NativeOps(threads=1)
        self.config = checkpoint.config
        self.weights = checkpoint.weights(self.ops.put)
        self.n_context = n_context
        self.context = Context(self.config, self.ops, n_context, cache_dtype)
        self.leases: list[str] = []
        self.has_tokenizer = checkpoint.tokenizer is not None

    @contextmanager
    def lease(self) -> Iterator[Context]:
        self.leases.append("taken")
        try:
            yield self.context
        finally:
            self.leases.append("given back")

    def answer(
        self,
        ids: Sequence[int],
        params: SamplingParams = GREEDY,
        *,
        allowed: Any = None,
        on_prefill: OnPrefill | None = None,
    ) -> Generation:
        detokenizer = Detokenizer(mixtral_tokenizer()) if self.has_tokenizer else None
        return generate(
            self.ops, self.weights, self.config, self.lease(), ids,
            make_sampler(params, self.config.vocab_size, EOS), detokenizer, n_context=self.n_context,
            end_ids=frozenset({EOS, *params.stop_ids}), allowed=allowed, on_prefill=on_prefill,
        )  # fmt: skip

    def ids(self, prompt: Sequence[int], params: SamplingParams = GREEDY) -> list[int]:
        return [token.id for token in self.answer(prompt, params)]

    def last_logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits after the last id, from one pass over all of them without a cache."""
        hidden = forward(self.ops, self.weights, self.config, whole([ids]))
        return self.ops.to_numpy(logits(self.ops, self.weights, hidden[-1:]))[0]


def script(text: str) -> list[int]:
    return mixtral_tokenizer().encode(text)


def says(text: str, **kwargs: Any) -> Player:
    return Player(scripted_checkpoint(script(text), **kwargs))


def greedy(**kwargs: Any) -> SamplingParams:
    return replace(GREEDY, **kwargs)


# How an answer ends


def test_eos_ends_the_answer_and_adds_no_text() -> None:
    player = says("Hi there.")
    generation = player.answer([1, 5, 6])
    assert generation.finish_reason is None
    tokens = list(generation)
    assert [token.id for token in tokens] == [*script("Hi there."), EOS]
    assert [token.text for token in tokens] == ["Hi", " there", ".", ""]
    assert generation.text == "Hi there."
    assert generation.finish_reason == "stop"
    with pytest.raises(StopIteration):
        next(generation)


def test_stop_ids_end_it_as_eos_does() -> None:
    there = script("Hi there.")[1]
    generation = says("Hi there.").answer([1], greedy(stop_ids=(there,)))
    assert [token.id for token in generation][-1] == there
    assert (generation.text, generation.finish_reason) == ("Hi", "stop")


@pytest.mark.parametrize(
    ("stop", "texts", "reason"),
    [
        (("re.",), ["Hi", " the", ""], "stop"),  # "re" waits for its "."
        ((" th", "re."), ["Hi", ""], "stop"),  # the first one to be complete
        (("here!",), ["Hi", " t", "here.", ""], "stop"),  # "here" was no stop string: it comes with the next
        ((".x",), ["Hi", " there", "", "."], "stop"),  # the end of the answer gives back what was held
        (("Hi",), [""], "stop"),
    ],
)
def test_stop_strings_are_never_shown_in_part(stop: tuple[str, ...], texts: list[str], reason: str) -> None:
    generation = says("Hi there.").answer([1], greedy(stop=stop))
    assert [token.text for token in generation] == texts
    assert generation.finish_reason == reason
    assert generation.text == "".join(texts)


def test_held_text_comes_with_the_last_token_of_a_full_answer() -> None:
    generation = says("Hi there.").answer([1], greedy(stop=(" there!",), max_tokens=2))
    assert [token.text for token in generation] == ["Hi", " there"]
    assert generation.finish_reason == "length"


def test_a_character_of_several_tokens_comes_when_it_is_whole() -> None:
    parrot = script("🦜")
    assert len(parrot) == 5  # a blank and four bytes
    assert [token.text for token in says("🦜").answer([1])] == ["", "", "", "", "🦜", ""]
    cut = says("🦜").answer([1], greedy(max_tokens=4))
    assert [token.text for token in cut] == ["", "", "", "\N{REPLACEMENT CHARACTER}"]
    assert cut.finish_reason == "length"


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_max_tokens(max_tokens: int) -> None:
    generation = says("Hi there.").answer([1], greedy(max_tokens=max_tokens))
    assert len(list(generation)) == max_tokens
    assert generation.finish_reason == "length"


def test_eos_as_the_last_allowed_token_is_a_stop() -> None:
    generation = says("Hi there.").answer([1], greedy(max_tokens=4))
    assert len(list(generation)) == 4
    assert generation.finish_reason == "stop"


def test_no_tokens_at_all() -> None:
    player = says("Hi there.")
    generation = player.answer([1, 2, 3], greedy(max_tokens=0))
    assert list(generation) == []
    assert generation.finish_reason == "length"
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (3, 0)
    assert player.leases == []


def test_the_context_is_filled_to_its_last_place() -> None:
    player = Player(scripted_checkpoint([700, 701], then=700), n_context=20)
    generation = player.answer([1] * 12, greedy(max_tokens=100))
    assert [token.id for token in generation] == [700, 701] * 4
    assert generation.finish_reason == "length"


# Closing, dropping, failing


def test_close_in_the_middle() -> None:
    player = says("Hi there.")
    generation = player.answer([1])
    next(generation)
    assert player.leases == ["taken"]
    generation.close()
    assert player.leases == ["taken", "given back"]
    assert generation.finish_reason == "cancelled"
    assert generation.text == "Hi"
    assert list(generation) == []
    generation.close()
    assert player.leases == ["taken", "given back"]


def test_close_before_the_first_token_takes_nothing() -> None:
    player = says("Hi there.")
    generation = player.answer([1])
    generation.close()
    assert (generation.finish_reason, list(generation), player.leases) == ("cancelled", [], [])


def test_close_after_the_end_keeps_the_reason() -> None:
    player = says("Hi there.")
    generation = player.answer([1])
    list(generation)
    generation.close()
    assert generation.finish_reason == "stop"
    assert player.leases == ["taken", "given back"]


def test_a_dropped_answer_gives_its_context_back_at_once() -> None:
    player = says("Hi there.")
    for _ in player.answer([1]):
        break
    assert player.leases == ["taken", "given back"]


def test_an_interrupted_pass_leaves_a_usable_context(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(random_checkpoint())
    prompt = [1, 50, 60, 70]
    expected = player.ids(prompt, greedy(max_tokens=6))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    generation = player.answer(prompt, greedy(max_tokens=6))
    next(generation)
    with monkeypatch.context() as patch:
        patch.setattr("octuor.model.logits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(generation)
    assert player.leases[-1] == "given back"
    generation.close()
    assert generation.finish_reason == "cancelled"
    assert player.ids(prompt, greedy(max_tokens=6)) == expected


# Usage and the cache


def test_usage_counts_up() -> None:
    generation = says("Hi there.").answer([1, 5, 6])
    counts = []
    for _ in generation:
        usage = generation.usage
        counts.append((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens))
        assert usage.prefill_s > 0
        assert usage.decode_s >= 0
    assert counts == [(3, 1, 0), (3, 2, 0), (3, 3, 0), (3, 4, 0)]


@pytest.mark.parametrize(
    ("second", "cached"),
    [
        ([1, 50, 60, 70], 2),  # the same again: the last id runs once more, for its logits, and never alone
        ([1, 50, 60, 70, 80], 3),
        ([1, 50, 61, 70], 2),
        ([1, 50], 0),
        ([9, 50, 60, 70], 0),
        ([9], 0),
    ],
)
@pytest.mark.parametrize("cache_dtype", ["f32", "f16"])
def test_a_shared_beginning_is_not_computed_twice(second: list[int], cached: int, cache_dtype: str) -> None:
    checkpoint = random_checkpoint()
    warm, cold = (Player(checkpoint, cache_dtype=cache_dtype) for _ in range(2))
    list(warm.answer([1, 50, 60, 70], greedy(max_tokens=5)))
    found = warm.answer(second, greedy(max_tokens=12))
    expected = cold.answer(second, greedy(max_tokens=12))
    for token, wanted in zip(found, expected, strict=True):
        assert (token.id, token.logprob) == (wanted.id, wanted.logprob)
    assert (found.usage.cached_tokens, expected.usage.cached_tokens) == (cached, 0)


def test_the_answer_is_part_of_what_the_next_turn_shares() -> None:
    player = Player(random_checkpoint())
    answer = player.ids([1, 50, 60], greedy(max_tokens=5))
    following = player.answer([1, 50, 60, *answer, 80, 90], greedy(max_tokens=1))
    list(following)
    assert following.usage.cached_tokens == 3 + 4  # the fifth token was never run


@pytest.mark.parametrize(("cache_dtype", "tolerance"), [("f32", SUM_ORDER), ("f16", ROUNDED_CACHE)])
def test_logprobs_are_those_of_one_pass_without_a_cache(cache_dtype: str, tolerance: float) -> None:
    player = Player(random_checkpoint(), cache_dtype=cache_dtype)
    ids = [1, 50, 60]
    for token in player.answer(ids, greedy(max_tokens=8, logprobs=3)):
        expected = log_softmax(player.last_logits(ids))
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=tolerance)
        assert [logprob for _, logprob in token.top] == pytest.approx(np.sort(expected)[:-4:-1], abs=tolerance)
        ids.append(token.id)


def test_a_long_prompt_runs_in_chunks() -> None:
    player = Player(random_checkpoint(), n_context=PREFILL_CHUNK + 100)
    prompt = np.random.default_rng(0).integers(3, 32000, PREFILL_CHUNK + 40).tolist()
    reports: list[tuple[int, int]] = []
    generation = player.answer(
        prompt, greedy(max_tokens=1), on_prefill=lambda done, total: reports.append((done, total))
    )
    (token,) = generation
    assert reports == [(PREFILL_CHUNK, len(prompt)), (len(prompt), len(prompt))]
    expected = log_softmax(player.last_logits(prompt))
    assert token.id == expected.argmax()
    assert token.logprob == pytest.approx(float(expected.max()), abs=SUM_ORDER)


def test_no_token_of_a_long_prompt_runs_alone() -> None:
    player = Player(random_checkpoint(), n_context=PREFILL_CHUNK + 100)
    reports: list[int] = []
    prompt = [1] * (PREFILL_CHUNK + 1)
    next(player.answer(prompt, greedy(), on_prefill=lambda done, _: reports.append(done)))
    assert reports == [PREFILL_CHUNK - 1, PREFILL_CHUNK + 1]


# A sliding window

WINDOW = 40
WINDOWED = replace(TINY, sliding_window=WINDOW)


def test_a_window_bounds_the_cache_however_long_the_answer() -> None:
    room = PREFILL_CHUNK + 10 * WINDOW
    player = Player(random_checkpoint(WINDOWED), n_context=room)
    prompt = np.random.default_rng(1).integers(3, 32000, PREFILL_CHUNK + 5 * WINDOW).tolist()
    keys = player.context._cache.keys[0]
    assert keys.shape[0] * keys.shape[2] < WINDOW + PREFILL_CHUNK + 3 * PAGE_SIZE < len(prompt)
    ids = list(prompt)
    for token in player.answer(prompt):
        if len(ids) % 29 == 0:
            expected = log_softmax(player.last_logits(ids))
            assert token.logprob == pytest.approx(float(expected[token.id]), abs=SUM_ORDER)
        ids.append(token.id)
    assert len(ids) == room


def test_a_window_is_what_the_model_sees() -> None:
    """One layer sees the last WINDOW tokens: what lies before them changes nothing, the first of them does."""
    checkpoint = random_checkpoint(replace(WINDOWED, n_layers=1))
    tail = np.random.default_rng(2).integers(3, 32000, WINDOW).tolist()

    def logprob(prompt: list[int]) -> float | None:
        return next(Player(checkpoint).answer(prompt)).logprob

    expected = logprob([5] * 30 + tail)
    assert logprob([6] * 30 + tail) == pytest.approx(expected, abs=SUM_ORDER)
    assert logprob([5] * 31 + tail[1:]) != pytest.approx(expected, abs=SUM_ORDER)


def test_a_cut_behind_the_window_starts_again() -> None:
    player = Player(random_checkpoint(WINDOWED), n_context=PREFILL_CHUNK)
    prompt = np.random.default_rng(3).integers(3, 32000, 300).tolist()
    first = player.answer(prompt, greedy(max_tokens=6))
    list(first)
    for shared, cached in ((299, 298), (100, 0)):
        again = player.answer([*prompt[:shared], 77], greedy(max_tokens=6))
        found = [token.id for token in again]
        assert again.usage.cached_tokens == cached
        assert found == Player(random_checkpoint(WINDOWED), n_context=PREFILL_CHUNK).ids(
            [*prompt[:shared], 77], greedy(max_tokens=6)
        )


# What is refused


@pytest.mark.parametrize(("bad", "place"), [([1, -1], 1), ([32000], 0), ([1, 2, 40000, -1], 2)])
def test_ids_outside_the_vocabulary(bad: list[int], place: int) -> None:
    with pytest.raises(RequestError, match=rf"expected 0 to 31999, found {bad[place]} at place {place}"):
        says("Hi").answer(bad)
    check_ids([0, 31999], 32000)


def test_an_empty_prompt() -> None:
    with pytest.raises(RequestError, match="at least one token, found none"):
        says("Hi").answer([])


def test_a_prompt_that_leaves_no_room() -> None:
    player = Player(scripted_checkpoint(script("Hi")), n_context=8)
    with pytest.raises(RequestError, match="fewer tokens than the context of 8, found 8"):
        player.answer([1] * 8)
    assert player.ids([1] * 7) == script("Hi")


def test_stop_strings_need_a_tokenizer() -> None:
    player = Player(scripted_checkpoint([700, 701], tokenizer=False))
    with pytest.raises(RequestError, match="use stop_ids"):
        player.answer([1], greedy(stop=("x",)))
    tokens = list(player.answer([1]))
    assert [(token.id, token.text) for token in tokens] == [(700, ""), (701, ""), (EOS, "")]


def test_ids_that_are_not_allowed_are_never_chosen() -> None:
    config = replace(SCRIPTED, vocab_size=32064)
    player = Player(scripted_checkpoint([32050], config))
    allowed = np.arange(config.vocab_size) < 32000
    assert all(token.id < 32000 for token in player.answer([1], greedy(max_tokens=5), allowed=allowed))
    bare = Player(scripted_checkpoint([32050], config, tokenizer=False))
    assert bare.ids([1]) == [32050, EOS]


@pytest.mark.parametrize("name", ["embed", "layers.0.wv", "layers.1.moe_norm", "norm", "lm_head"])
def test_weights_that_are_not_numbers(name: str) -> None:
    values = random_values(TINY, [0])
    values[name][:] = np.nan
    player = Player(checkpoint_of(TINY, values))
    with pytest.raises(CheckpointError, match="logits: expected finite numbers, found nan"):
        list(player.answer([1, 2, 3]))
    assert player.leases == ["taken", "given back"]
