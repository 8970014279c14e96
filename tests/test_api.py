"""The Python API as a user has it: load, chat, generate, logits, and the pocket model that comes with it."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import octuor
from octuor.api import POCKET, Model, load, make_ops
from octuor.batch import whole
from octuor.checkpoint import Checkpoint, memory, open_checkpoint
from octuor.errors import BackendError, CheckpointError, RequestError, TokenizerError
from octuor.generate import PREFILL_CHUNK
from octuor.model import forward, logits
from octuor.ops.native import NativeOps
from octuor.ops.reference import ReferenceOps
from octuor.sampling import SamplingParams
from octuor.tools.convert import convert
from octuor.train.recipe import read_recipe
from tiny_models import EOS, SCRIPTED, TINY, random_checkpoint, scripted_checkpoint, write_model
from tokenizer_file import mixtral_tokenizer

SUM_ORDER = 1e-4  # float32 sums of up to some hundred terms in another order; relative to the largest logit
HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = SamplingParams(temperature=0, max_tokens=12)
RECIPE = Path(__file__).parent.parent / "recipes" / "pocket.toml"
POCKET_BYTES = 30e6  # what a wheel can carry without anybody minding


def model_of(checkpoint: Checkpoint, *, context: int | None = None, cache_dtype: str = "f32") -> Model:
    return Model(checkpoint, NativeOps(threads=1), context=context, cache_dtype=cache_dtype)


def says(text: str) -> Model:
    return model_of(scripted_checkpoint(mixtral_tokenizer().encode(text)))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint()


# Loading


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_load_a_pack(tmp_path: Path, backend: str) -> None:
    path = write_model(scripted_checkpoint(mixtral_tokenizer().encode("Hi there.")), tmp_path / "x.octuor")
    model = load(path, threads=1, context=100, backend=backend)
    assert isinstance(model.ops, NativeOps if backend == "native" else ReferenceOps)
    assert model.config == SCRIPTED
    assert model.context == 100
    generation = model.chat(HELLO, GREEDY)
    assert "".join(token.text for token in generation) == "Hi there." == generation.text
    assert generation.finish_reason == "stop"


def test_resident_weights_are_the_mapped_ones(tmp_path: Path) -> None:
    path = convert(random_checkpoint(), tmp_path / "x.octuor", "q4").path
    seen: list[tuple[int, int]] = []
    resident = load(path, threads=1, resident=True, on_load=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert resident.page_in is None
    mapped = load(path, threads=1)
    for name in mapped.checkpoint.names:
        np.testing.assert_array_equal(resident.checkpoint.get(name).data, mapped.checkpoint.get(name).data)
    np.testing.assert_array_equal(resident.logits([1, 50, 60]), mapped.logits([1, 50, 60]))


def test_weights_are_read_ahead_until_the_model_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALL", 0)
    path = write_model(random_checkpoint(), tmp_path / "x.octuor")
    model = load(path, threads=1)
    page_in = model.page_in
    assert page_in is not None
    assert page_in.wait(60)
    assert len(model.logits([1])) == 1
    del model
    gc.collect()
    assert page_in._is_stopped
    assert load(path, threads=1, backend="reference").page_in is None


def test_the_package_offers_the_same_names() -> None:
    assert octuor.load is load
    assert octuor.SamplingParams is SamplingParams


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.octuor")
    with pytest.raises(BackendError, match="expected one of native, reference, torch; found 'cuda'"):
        make_ops("cuda")


def test_the_torch_backend_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "octuor.ops.torch", raising=False)
    with pytest.raises(BackendError, match=r'pip install "octuor\[train\]"'):
        make_ops("torch")


def test_context_has_the_models_length_as_its_end(checkpoint: Checkpoint) -> None:
    assert model_of(checkpoint).context == TINY.max_seq_len
    for context in (1, TINY.max_seq_len):
        assert model_of(checkpoint, context=context).context == context
    for context in (0, TINY.max_seq_len + 1):
        with pytest.raises(RequestError, match=f"expected 1 to the {TINY.max_seq_len} tokens .* found {context}"):
            model_of(checkpoint, context=context)


def test_an_unknown_cache_dtype(checkpoint: Checkpoint) -> None:
    with pytest.raises(RequestError, match="expected f16 or f32, found 'f8'"):
        list(model_of(checkpoint, cache_dtype="f8").generate([1], GREEDY))


# Text and ids


def test_chat_begins_without_the_blank_that_generate_keeps() -> None:
    model = says("Hi there.")
    chat, generate = model.chat(HELLO, GREEDY), model.generate("Hello", GREEDY)
    assert [token.id for token in chat] == [token.id for token in generate]
    assert (chat.text, generate.text) == ("Hi there.", " Hi there.")
    tokenizer = mixtral_tokenizer()
    assert chat.usage.prompt_tokens == len([1, *tokenizer.encode("[INST] Hello [/INST]")])
    assert generate.usage.prompt_tokens == len([1, *tokenizer.encode("Hello")])


def test_generate_takes_ids_as_they_are() -> None:
    model = says("Hi there.")
    text = model.generate("Hello", GREEDY)
    ids = model.generate(np.array([1, *mixtral_tokenizer().encode("Hello")]), GREEDY)  # type: ignore[arg-type]
    assert [token.id for token in ids] == [token.id for token in text]
    assert ids.usage.prompt_tokens == text.usage.prompt_tokens


def test_every_token_has_its_logprob(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    for token in model.generate("Hello", replace(GREEDY, logprobs=2)):
        assert token.logprob == token.top[0][1] > token.top[1][1]
        assert token.top[0][0] == token.id
    assert all(token.logprob is not None and token.top == () for token in model.generate("Hello", GREEDY))


def test_the_default_is_sampling_to_the_end_of_the_context() -> None:
    model = model_of(scripted_checkpoint([700, 701], then=700), context=30)
    generation = model.generate([1])
    assert len(list(generation)) == 29
    assert generation.finish_reason == "length"


def test_requests_that_cannot_be_answered(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint, context=8)
    refused: list[Sequence[int]] = [[], [1] * 8, [32000], [-1]]
    for ids in refused:
        with pytest.raises(RequestError):
            model.generate(ids)
    with pytest.raises(RequestError, match="shorten it or raise the context"):
        model.chat(HELLO)
    with pytest.raises(TokenizerError, match="expected at least one user message"):
        model.chat([])
    assert len(list(model.generate([1] * 7))) == 1


def test_a_model_without_a_tokenizer_takes_ids_only() -> None:
    model = model_of(random_checkpoint(tokenizer=False))
    for refused in (lambda: model.generate("Hello"), lambda: model.chat(HELLO), lambda: model.tokenizer):
        with pytest.raises(TokenizerError, match="tiny: has no tokenizer"):
            refused()
    tokens = list(model.generate([1, 2, 3], GREEDY))
    assert len(tokens) == 12
    assert all(token.text == "" for token in tokens)
    assert model.logits([1, 2, 3]).shape == (3, 32000)
    with pytest.raises(RequestError, match="use stop_ids"):
        model.generate([1], SamplingParams(stop=("x",)))
    stop_id = tokens[0].id
    ended = model.generate([1, 2, 3], replace(GREEDY, stop_ids=(stop_id,)))
    assert [token.id for token in ended] == [stop_id]
    assert ended.finish_reason == "stop"


def test_the_padding_of_a_vocabulary_is_never_sampled() -> None:
    """A model that wants nothing but an id without text says something else; its logits stay as they are."""
    model = model_of(scripted_checkpoint([32050], replace(SCRIPTED, vocab_size=32064), then=32050))
    assert model.logits([1])[0].argmax() == 32050
    for params in (GREEDY, SamplingParams(max_tokens=12, seed=0)):
        assert all(token.id < mixtral_tokenizer().n_words for token in model.generate([1], params))


# Turns, seeds, threads


def test_a_talk_goes_on_in_the_warm_context(checkpoint: Checkpoint) -> None:
    warm = model_of(checkpoint)
    messages = list(HELLO)
    for turn in range(3):
        # a random model may not say text that encodes back to its ids: the shared part ends where the ids differ
        found = warm.chat(messages, GREEDY)
        expected = model_of(checkpoint).chat(messages, GREEDY)
        assert [token.id for token in found] == [token.id for token in expected]
        assert expected.usage.cached_tokens == 0
        assert (found.usage.cached_tokens > 0) == (turn > 0)
        messages += [{"role": "assistant", "content": found.text}, {"role": "user", "content": "And then?"}]


def test_cached_tokens_over_turns_are_all_but_the_new_ones() -> None:
    model = says("Hi there.")
    first = model.chat(HELLO, GREEDY)
    list(first)
    answer = {"role": "assistant", "content": first.text}
    second = model.chat([*HELLO, answer, {"role": "user", "content": "Well?"}], GREEDY)
    list(second)
    said = len(mixtral_tokenizer().encode(first.text))
    assert second.usage.cached_tokens == first.usage.prompt_tokens + said  # EOS was chosen, never run
    assert second.usage.prompt_tokens > second.usage.cached_tokens


def test_seeds(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)

    def ids(seed: int | None) -> list[int]:
        return [token.id for token in model.generate("Hello", SamplingParams(max_tokens=12, seed=seed))]

    assert ids(7) == ids(7)
    assert ids(7) != ids(8)
    assert ids(None) != ids(None)


def test_two_answers_at_once_from_two_threads(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    prompts = {"left": [1, 50, 60], "right": [1, 70, 80, 90]}
    params = replace(GREEDY, max_tokens=40)
    expected = {name: [t.id for t in model_of(checkpoint).generate(ids, params)] for name, ids in prompts.items()}
    found: dict[str, list[int]] = {}
    in_step = threading.Barrier(2, timeout=60)

    def run(name: str) -> None:
        ids = []
        for token in model.generate(prompts[name], params):
            ids.append(token.id)
            in_step.wait()  # both answers grow by turns
        found[name] = ids

    threads = [threading.Thread(target=run, args=(name,)) for name in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_two_answers_interleaved_in_one_thread(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    left, right = model.generate([1, 50], GREEDY), model.generate([1, 60], GREEDY)
    pairs = list(zip(left, right, strict=True))
    for ids, prompt in ([pair[0].id for pair in pairs], [1, 50]), ([pair[1].id for pair in pairs], [1, 60]):
        assert ids == [token.id for token in model_of(checkpoint).generate(prompt, GREEDY)]


def test_a_closed_answer_leaves_its_context_warm(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    generation = model.generate([1, 50, 60], GREEDY)
    next(generation)
    generation.close()
    assert generation.finish_reason == "cancelled"
    again = model.generate([1, 50, 60], GREEDY)
    next(again)
    assert again.usage.cached_tokens == 1


# Logits


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_logits_are_those_of_the_forward_pass(checkpoint: Checkpoint, backend: str) -> None:
    ids = [1, 50, 60, 31999, 0]
    found = Model(checkpoint, make_ops(backend, 1), context=None, cache_dtype="f16").logits(ids)
    assert found.shape == (5, 32000)
    assert found.dtype == np.float32
    ops = ReferenceOps()
    weights = checkpoint.weights(ops.put)
    expected = logits(ops, weights, forward(ops, weights, TINY, whole([ids])))
    assert np.abs(found - expected).max() < SUM_ORDER * np.abs(expected).max()


@pytest.mark.parametrize("window", [None, 40])
def test_long_logits_run_in_chunks(window: int | None) -> None:
    config = replace(TINY, sliding_window=window, vocab_size=500)
    model = model_of(random_checkpoint(config, tokenizer=False))
    ids = np.random.default_rng(0).integers(0, 500, PREFILL_CHUNK + 200).tolist()
    found = model.logits(ids)
    hidden = forward(model.ops, model.weights, config, whole([ids]))
    expected = model.ops.to_numpy(logits(model.ops, model.weights, hidden))
    assert np.abs(found - expected).max() < SUM_ORDER * np.abs(expected).max()


def test_logits_of_nothing_and_of_too_much(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint, context=4)
    assert model.logits([]).shape == (0, 32000)
    assert model.logits([1] * 6).shape == (6, 32000)  # `context` is for answers, max_seq_len is the model's end
    with pytest.raises(RequestError, match=f"at most {TINY.max_seq_len}"):
        model.logits([1] * (TINY.max_seq_len + 1))
    for bad in (-1, 32000):
        with pytest.raises(RequestError, match=f"found {bad} at place 1"):
            model.logits([1, bad])


def test_routing_can_be_watched(checkpoint: Checkpoint) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    model_of(checkpoint).logits([1, 2, 3], on_route=lambda layer, routing: seen.append((layer, routing.experts.shape)))
    assert seen == [(0, (3, 2)), (1, (3, 2))]


def test_bytes_per_token_by_hand() -> None:
    model = model_of(random_checkpoint(tokenizer=False))
    attention = TINY.dim * TINY.head_dim * 2 * (TINY.n_heads + TINY.n_kv_heads)
    layer = attention + 2 * TINY.dim + TINY.n_experts * TINY.dim + 2 * (3 * TINY.dim * TINY.hidden_dim)
    weights = TINY.n_layers * layer + TINY.dim + TINY.vocab_size * TINY.dim
    assert model.bytes_per_token == 4 * weights


# The pocket model: what holds for any that the recipe gives


@pytest.fixture(scope="module")
def pocket() -> Model:
    return load(threads=1)


def test_the_pocket_model_is_its_recipes(pocket: Model) -> None:
    assert pocket.checkpoint.source == POCKET
    assert pocket.config == read_recipe(RECIPE).model
    assert (pocket.config.n_experts, pocket.config.n_experts_per_token) == (8, 2)
    assert pocket.config.n_kv_heads < pocket.config.n_heads
    assert pocket.config.vocab_size == pocket.tokenizer.n_words == 32000
    assert open_checkpoint(POCKET).tokenizer_kind == "tokenizer.model"


def test_the_pocket_model_is_small_enough_to_ship() -> None:
    assert POCKET.stat().st_size < POCKET_BYTES


def test_the_pocket_model_answers(pocket: Model) -> None:
    generation = pocket.chat(HELLO, SamplingParams(temperature=0, max_tokens=200))
    tokens = list(generation)
    assert generation.finish_reason == "stop"
    assert tokens[-1].id == EOS
    assert any(char.isalpha() for char in generation.text)
    assert generation.text == pocket.tokenizer.decode(token.id for token in tokens)


def test_the_pocket_model_says_the_same_again(pocket: Model) -> None:
    params = SamplingParams(seed=3, max_tokens=30)
    texts = set()
    for _ in range(2):
        generation = pocket.chat(HELLO, params)
        list(generation)
        texts.add(generation.text)
    assert len(texts) == 1
