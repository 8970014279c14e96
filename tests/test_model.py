"""Properties of the forward pass that need no reference numbers: decode equals prefill, and its kin, in every backend.

Each native instruction set runs with plain and with tiled weights, for those take other paths through the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from octuor.batch import step, whole
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.pack import write_pack
from octuor.config import ModelConfig
from octuor.model import forward, logits
from octuor.ops import Array, LayerRouting
from octuor.ops.native import NativeOps
from octuor.quant import F32, FORMATS, Q4, Format, find_format
from octuor.weights import Expert
from toys import BACKENDS, NATIVE, F32Array, Toy, leaves, make_backend, random_values, relative_error

# Relative to the largest logit. The same float32 sums in another order: some hundred terms, three layers deep.
TOLERANCE = 1e-5
# Tiled weights meet activations rounded to 8 bits. Where two ways of computing one differ in its last float32 bit,
# it may round to the next code: 1/127 of the largest, in one of some forty inputs, seen through the layers after it.
TILED_TOLERANCE = 4e-2
# float16 keys and values: 2^-11 relative each, through scores of a few units into the softmax's exponent.
F16_CACHE_TOLERANCE = 2e-3

MIXTURE = ModelConfig(
    dim=45, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=14, hidden_dim=51, vocab_size=83,
    n_experts=5, n_experts_per_token=2, rope_theta=1e4, max_seq_len=256,
)  # fmt: skip
CONFIGS = {
    "mixture": MIXTURE,
    "window": replace(MIXTURE, sliding_window=7),
    "dense": replace(MIXTURE, n_experts=1, n_experts_per_token=1, n_kv_heads=6, sliding_window=10),
}
KINDS = [(backend, F32) for backend in BACKENDS] + [(backend, Q4) for backend in NATIVE]
LENGTH = 40


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1].name}")
def kind(request: pytest.FixtureRequest) -> tuple[str, Format]:
    found: tuple[str, Format] = request.param
    return found


@pytest.fixture(scope="module")
def toy(kind: tuple[str, Format], config: ModelConfig) -> Toy:
    backend, row = kind
    return Toy(make_backend(backend), config, leaves(random_values(config, [8]), row))


Same = Callable[[F32Array, F32Array], None]


@pytest.fixture(scope="module")
def same(kind: tuple[str, Format]) -> Same:
    tolerance = TILED_TOLERANCE if kind[1].is_tiled else TOLERANCE

    def check(found: F32Array, expected: F32Array) -> None:
        assert relative_error(found, expected) <= tolerance

    return check


def text(config: ModelConfig, n: int = LENGTH, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng([8, seed]).integers(0, config.vocab_size, n).tolist()
    return tokens


# ---- one sequence --------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 5, 32])
def test_decode_equals_prefill(toy: Toy, same: Same, page_size: int) -> None:
    tokens = text(toy.config)
    cache = toy.cache(LENGTH, page_size=page_size)
    sequence = cache.new()
    rows = [toy.extend(cache, sequence, [token]) for token in tokens]
    same(np.concatenate(rows), toy.alone(tokens))


@pytest.mark.parametrize("seed", range(4))
def test_chunked_equals_whole(toy: Toy, same: Same, seed: int) -> None:
    """Cuts at random places, now and then an empty chunk, pages of random size."""
    rng = np.random.default_rng([8, seed])
    tokens = text(toy.config, seed=seed)
    cuts = sorted(rng.integers(0, LENGTH + 1, int(rng.integers(1, 9))).tolist())
    cache = toy.cache(LENGTH, page_size=int(rng.integers(1, 17)))
    sequence = cache.new()
    rows = [toy.extend(cache, sequence, tokens[a:b]) for a, b in pairwise([0, *cuts, LENGTH])]
    same(np.concatenate(rows), toy.alone(tokens))


@pytest.mark.parametrize("length", [0, 1, 8, 13, 39])
def test_a_cache_cut_back_is_as_if_it_had_never_gone_further(toy: Toy, same: Same, length: int) -> None:
    tokens, others = text(toy.config), text(toy.config, 12, seed=1)
    cache = toy.cache(2 * LENGTH)
    sequence = cache.new()
    toy.extend(cache, sequence, tokens)  # in one chunk, so a window has let nothing go yet
    cache.truncate(sequence, length)
    same(toy.extend(cache, sequence, others), toy.alone(tokens[:length] + others)[length:])


def test_later_tokens_change_nothing_before_them(toy: Toy, same: Same) -> None:
    tokens = text(toy.config)
    changed = [*tokens[:-1], (tokens[-1] + 1) % toy.config.vocab_size]
    before, after = toy.alone(tokens), toy.alone(changed)
    assert relative_error(after[-1], before[-1]) > TILED_TOLERANCE
    same(after[:-1], before[:-1])


@pytest.mark.parametrize("past", [0, 1])
def test_the_window_ends_where_it_should(toy: Toy, past: int) -> None:
    """Each layer looks window - 1 tokens further back; without a window, the first token is still felt."""
    config, tokens = toy.config, text(toy.config)
    reach = LENGTH - 1 if config.sliding_window is None else config.n_layers * (config.sliding_window - 1)
    place = max(0, LENGTH - 1 - reach - past)
    is_seen = config.sliding_window is None or not past
    changed = [*tokens]
    changed[place] = (changed[place] + 1) % config.vocab_size
    error = relative_error(toy.alone(changed)[-1], toy.alone(tokens)[-1])
    assert (error > TOLERANCE) == is_seen


def test_the_order_of_earlier_tokens_matters(toy: Toy) -> None:
    """Positions are felt: without RoPE, swapping two tokens before the last would change only their own rows."""
    tokens = text(toy.config, 6)
    swapped = [tokens[1], tokens[0], *tokens[2:]]
    assert relative_error(toy.alone(swapped)[-1], toy.alone(tokens)[-1]) > TILED_TOLERANCE


# ---- several sequences ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_whole_sequences_together_equal_each_alone(toy: Toy, same: Same, seed: int) -> None:
    rng = np.random.default_rng([8, seed])
    sequences = [text(toy.config, int(n), seed=int(n)) for n in rng.permutation([1, 2, 9, 17, 0, 23])]
    batch = whole(sequences)
    rows = toy.logits(batch)
    for tokens, start, end in zip(sequences, batch.starts[:-1], batch.starts[1:], strict=True):
        if tokens:
            same(rows[start:end], toy.alone(tokens))


@pytest.mark.parametrize("seed", range(3))
def test_cached_sequences_in_any_order_equal_each_alone(toy: Toy, same: Same, seed: int) -> None:
    """Four sequences, a few of them in each step, with random chunks, until all are done."""
    rng = np.random.default_rng([8, seed])
    texts = [text(toy.config, int(n), seed=i) for i, n in enumerate(rng.integers(5, 30, 4))]
    cache = toy.cache(4 * LENGTH, page_size=int(rng.integers(1, 9)))
    sequences = [cache.new() for _ in texts]
    rows: list[list[F32Array]] = [[] for _ in texts]
    while any(sequence.length < len(tokens) for sequence, tokens in zip(sequences, texts, strict=True)):
        chosen = rng.permutation(4)[: int(rng.integers(1, 5))]
        work = []
        for i in chosen:
            at = sequences[i].length
            work.append((sequences[i], texts[i][at : at + int(rng.integers(0, 8))]))
        batch = step(cache, work)
        logits = toy.logits(batch)
        for i, start, end in zip(chosen, batch.starts[:-1], batch.starts[1:], strict=True):
            rows[i].append(logits[start:end])
    for tokens, found in zip(texts, rows, strict=True):
        same(np.concatenate(found), toy.alone(tokens))


@pytest.mark.parametrize("page_size", [1, 5, 32])
def test_several_entries_of_one_sequence_equal_the_sequence(toy: Toy, same: Same, page_size: int) -> None:
    """In one call: each entry sees the keys that those before it write."""
    tokens, other = text(toy.config), text(toy.config, 5, seed=1)
    cache = toy.cache(2 * LENGTH, page_size=page_size)
    sequence, beside = cache.new(), cache.new()
    toy.extend(cache, sequence, tokens[:8])
    pieces = [[8, 9], [9, 10], [10, 11], [11, 30], [30, 31], [31, LENGTH]]
    batch = step(cache, [(beside, other), *((sequence, tokens[a:b]) for a, b in pieces)])
    same(toy.logits(batch)[len(other) :], toy.alone(tokens)[8:])


@pytest.mark.parametrize("shared", [5, 8, 21])
def test_a_fork_and_its_parent_go_separate_ways(toy: Toy, same: Same, shared: int) -> None:
    """`shared` ends within a page and at the edge of one."""
    prefix, first, second = text(toy.config, shared), text(toy.config, 9, seed=1), text(toy.config, 9, seed=2)
    cache = toy.cache(3 * LENGTH)
    parent = cache.new()
    toy.extend(cache, parent, prefix)
    child = cache.fork(parent)
    rows = {0: [], 1: []}  # type: dict[int, list[F32Array]]
    for a, b in zip(first, second, strict=True):
        rows[0].append(toy.extend(cache, parent, [a]))
        rows[1].append(toy.extend(cache, child, [b]))
    for own, found in ((first, rows[0]), (second, rows[1])):
        same(np.concatenate(found), toy.alone(prefix + own)[shared:])


def test_a_fork_outlives_its_parent(toy: Toy, same: Same) -> None:
    """Other sequences take the parent's pages, and overwrite those that nobody shares."""
    tokens, others = text(toy.config, 21), text(toy.config, 30, seed=3)
    cache = toy.cache(2 * LENGTH)
    parent = cache.new()
    toy.extend(cache, parent, tokens)
    child = cache.fork(parent)
    toy.extend(cache, parent, others[:5])
    cache.free(parent)
    toy.extend(cache, cache.new(), others)
    same(toy.extend(cache, child, others[:3]), toy.alone(tokens + others[:3])[-3:])


# ---- the cache's forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [3, 8])
def test_a_rolling_window_in_constant_memory_equals_recomputing_all(toy: Toy, same: Same, page_size: int) -> None:
    """200 tokens through a pool of the window, the largest chunk and a page at either end."""
    window, chunk = toy.config.sliding_window, 5
    if window is None:
        cache = toy.cache(200, page_size=page_size)
        bound = -(-200 // page_size)
    else:
        cache = toy.cache(window + chunk + 2 * page_size, page_size=page_size)
        bound = cache.n_pages
    tokens = text(toy.config, 200)
    sequence, rows = cache.new(), []
    rng = np.random.default_rng(8)
    while sequence.length < len(tokens):
        n = int(rng.integers(1, chunk + 1))
        rows.append(toy.extend(cache, sequence, tokens[sequence.length : sequence.length + n]))
        assert len(sequence.pages) - sequence.n_released <= bound
    same(np.concatenate(rows), toy.alone(tokens))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_float16_cache_is_close_to_a_float32_one(backend: str, config: ModelConfig) -> None:
    toy, tokens = Toy(make_backend(backend), config, leaves(random_values(config, [8]))), text(config)
    found: list[F32Array] = []
    expected: list[F32Array] = []
    for rows, dtype in ((found, "f16"), (expected, "f32")):
        cache = toy.cache(LENGTH, dtype=dtype)
        sequence = cache.new()
        rows += [toy.extend(cache, sequence, [token]) for token in tokens]
    error = relative_error(np.concatenate(found), np.concatenate(expected))
    assert 0 < error <= F16_CACHE_TOLERANCE


def test_only_the_wanted_rows_go_through_the_last_experts(
    toy: Toy, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache, heard, played = toy.config, toy.cache(64), [], []
    moe = toy.ops.moe

    def watched(x: Array, routing: LayerRouting, experts: Sequence[Expert]) -> Array:
        played.append(len(routing.experts))
        return moe(x, routing, experts)

    monkeypatch.setattr(toy.ops, "moe", watched)
    prompts = [text(config, 9), text(config, 5)]
    batch = step(cache, [(cache.new(), prompt) for prompt in prompts])
    hidden = forward(
        toy.ops, toy.weights, config, batch, lambda _, routing: heard.append(len(routing.experts)), batch.last_rows
    )
    found = np.array(toy.ops.to_numpy(logits(toy.ops, toy.weights, hidden)))
    assert played == [14] * (config.n_layers - 1) + [2]
    assert heard == [14] * config.n_layers
    same(found, np.stack([toy.alone(prompt)[-1] for prompt in prompts]))


# ---- routing, files, threads ---------------------------------------------------------------------


def test_routing_can_be_watched(toy: Toy) -> None:
    config, seen = toy.config, []

    def watch(n: int, routing: LayerRouting) -> None:
        seen.append((n, routing))

    forward(toy.ops, toy.weights, config, whole([text(config, 9)]), watch)
    assert [n for n, _ in seen] == list(range(config.n_layers))
    for _, routing in seen:
        experts = np.asarray(routing.experts)
        assert experts.shape == (9, config.n_experts_per_token)
        assert all(len(set(row)) == len(row) for row in experts.tolist())
        assert ((experts >= 0) & (experts < config.n_experts)).all()
        assert toy.ops.to_numpy(routing.weights).sum(axis=1) == pytest.approx(np.ones(9), abs=1e-6)
        assert (np.diff(toy.ops.to_numpy(routing.weights), axis=1) <= 0).all()


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_saved_and_loaded_is_the_same(backend: str, row: Format, tmp_path: Path) -> None:
    """To the last bit: the same storage, and the same logits from a mapped file as from memory."""
    config, tokens = MIXTURE, text(MIXTURE)
    weights = leaves(random_values(config, [8]), row)
    formats = {name: find_format(weight.format.name) for name, weight in weights.items()}
    path = tmp_path / "model.octuor"
    write_pack(path, config, formats, lambda name: [weights[name].data])
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    for name, weight in weights.items():
        assert checkpoint.get(name).format == weight.format
        np.testing.assert_array_equal(checkpoint.get(name).data, weight.data, err_msg=name)
    ops = make_backend(backend)
    loaded = Toy(ops, config, {name: checkpoint.get(name) for name in checkpoint.names})
    np.testing.assert_array_equal(loaded.alone(tokens), Toy(ops, config, weights).alone(tokens))


@pytest.mark.parametrize("backend", NATIVE)
def test_threads_do_not_change_a_bit(backend: str) -> None:
    tokens, isa = text(MIXTURE), backend.removeprefix("native-")
    weights = leaves(random_values(MIXTURE, [8]), Q4)
    rows = [Toy(NativeOps(isa, threads=n), MIXTURE, weights).alone(tokens) for n in (1, 2, 3)]
    np.testing.assert_array_equal(rows[1], rows[0])
    np.testing.assert_array_equal(rows[2], rows[0])


def test_a_backend_can_be_used_by_models_of_two_shapes() -> None:
    """Kernels keep scratch memory between calls; a smaller model after a larger one must not see it."""
    for backend in BACKENDS:
        ops = make_backend(backend)
        large, small = MIXTURE, replace(MIXTURE, dim=17, hidden_dim=13, head_dim=4)
        toys = [Toy(ops, config, leaves(random_values(config, [8]))) for config in (large, small)]
        first = [toy.alone(text(toy.config, 30)) for toy in toys]
        again = [toy.alone(text(toy.config, 30)) for toy in toys]
        for rows, expected in zip(again, first, strict=True):
            np.testing.assert_array_equal(rows, expected)
