"""Attention of every native implementation, and of the reference, against definitions.py.

The history of each sequence is kept beside the cache in plain lists, so a wrong page, place, mask or rounding shows.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import definitions
from octuor.batch import Batch, step, whole
from octuor.cache import KVCache, SequenceCache
from octuor.config import ModelConfig
from octuor.ops.native import NativeOps
from octuor.quant.plain import from_bf16, to_bf16
from toys import BACKENDS, NATIVE, make_backend, relative_error

F32Array = NDArray[np.float32]

FLOAT32 = 1e-5  # softmax and sums of up to 1,000 terms in float32, relative to the largest result
BFLOAT16 = 2**-8  # probabilities rounded to 8 bits, each half a unit off at most, and the sum that divides them
PAIRS = ("native-avx512bf16", "native-amx")  # two tokens or more over an f16 cache are multiplied in bfloat16
ALL = pytest.mark.parametrize("backend", BACKENDS)
WINDOWS = pytest.mark.parametrize("window", [None, 1, 7, 64])
HEADS = ((1, 1, 2), (2, 1, 6), (6, 2, 10), (4, 4, 16), (8, 2, 34), (40, 1, 18))  # H, K, C


def config(n_heads: int, n_kv_heads: int, head_dim: int, window: int | None) -> ModelConfig:
    return ModelConfig(
        dim=8, n_layers=1, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, hidden_dim=8, vocab_size=8,
        sliding_window=window,
    )  # fmt: skip


class Histories:
    """A cache with several sequences, fed random queries, keys and values, and what ought to be in it."""

    def __init__(
        self, backend: str, shape: ModelConfig, *, dtype: str, page_size: int, seed: int, room: int = 400
    ) -> None:
        self.ops, self.shape, self.dtype = make_backend(backend), shape, dtype
        self.rounds = backend in PAIRS and dtype == "f16"
        self.cache = KVCache(shape, self.ops.zeros, room, dtype=dtype, page_size=page_size)
        self.rng = np.random.default_rng(seed)
        self.keys: dict[SequenceCache, F32Array] = {}
        self.values: dict[SequenceCache, F32Array] = {}

    def new(self) -> SequenceCache:
        sequence = self.cache.new()
        self.keys[sequence] = self.values[sequence] = self.draw(0, self.shape.n_kv_heads)
        return sequence

    def fork(self, sequence: SequenceCache) -> SequenceCache:
        other = self.cache.fork(sequence)
        self.keys[other], self.values[other] = self.keys[sequence], self.values[sequence]
        return other

    def truncate(self, sequence: SequenceCache, length: int) -> None:
        self.cache.truncate(sequence, length)
        self.keys[sequence], self.values[sequence] = self.keys[sequence][:length], self.values[sequence][:length]

    def draw(self, n: int, heads: int) -> F32Array:
        return 2 * self.rng.standard_normal((n, heads, self.shape.head_dim)).astype(np.float32)

    def check(self, *work: tuple[SequenceCache, int]) -> None:
        """Give each sequence its next n tokens in one call and compare every one's results."""
        batch = step(self.cache, [(sequence, [0] * n) for sequence, n in work])
        heads, kv = self.shape.n_heads, self.shape.n_kv_heads
        q, k, v = (self.draw(len(batch.tokens), h) for h in (heads, kv, kv))
        found = self.ops.attention(q, k, v, batch, 0, self.shape.sliding_window)
        for b, (sequence, n) in enumerate(work):
            rows = slice(batch.starts[b], batch.starts[b + 1])
            for kept, fresh in ((self.keys, k), (self.values, v)):
                kept[sequence] = np.concatenate([kept[sequence], self.as_cached(fresh[rows])])
            rounds = self.rounds and n > 1
            seen = q[rows], self.keys[sequence], self.values[sequence]
            expected = definitions.attention(
                *(rounded(*seen) if rounds else seen), batch.positions[rows].tolist(), self.shape.sliding_window
            )
            assert relative_error(found[rows], expected) < (BFLOAT16 if rounds else FLOAT32), (b, work[b])

    def as_cached(self, x: F32Array) -> F32Array:
        return x.astype(np.float16).astype(np.float32) if self.dtype == "f16" else x


def rounded(q: F32Array, k: F32Array, v: F32Array) -> tuple[F32Array, F32Array, F32Array]:
    """What is multiplied as pairs of bfloat16: the queries scaled for a softmax in powers of 2, keys and values."""
    scale = np.float32(np.log2(np.e)) / np.sqrt(np.float32(q.shape[-1]))
    return from_bf16(to_bf16(q * scale)) / scale, from_bf16(to_bf16(k)), from_bf16(to_bf16(v))


@ALL
@WINDOWS
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_prompts_and_answers_side_by_side(backend: str, dtype: str, window: int | None) -> None:
    for seed, heads in enumerate(HEADS):
        histories = Histories(backend, config(*heads, window), dtype=dtype, page_size=5, seed=seed)
        first, second, third = histories.new(), histories.new(), histories.new()
        histories.check((first, 17))
        histories.check((first, 1), (second, 40), (third, 3))
        histories.check((first, 1), (second, 1), (third, 1))
        histories.check((third, 12), (first, 0), (second, 2))


@ALL
@WINDOWS
def test_forked_and_cut_back_sequences(backend: str, window: int | None) -> None:
    histories = Histories(backend, config(4, 2, 12, window), dtype="f32", page_size=4, seed=1)
    first = histories.new()
    histories.check((first, 14))
    second = histories.fork(first)
    histories.check((first, 3), (second, 5))
    histories.truncate(second, 15)
    histories.check((second, 1), (first, 1))
    histories.cache.free(first)
    third = histories.new()  # takes pages that hold another sequence's keys
    histories.check((third, 6), (second, 1))


@ALL
def test_a_window_that_has_rolled_on_for_long(backend: str) -> None:
    histories = Histories(backend, config(2, 1, 8, 6), dtype="f16", page_size=4, seed=2)
    sequence, other = histories.new(), histories.new()
    for _ in range(30):
        histories.check((sequence, 1), (other, 2))
    histories.check((sequence, 9))


@ALL
@WINDOWS
@pytest.mark.parametrize("lengths", [[1], [2, 1, 3], [17, 0, 40], [70]], ids=str)
def test_whole_sequences_without_a_cache(backend: str, lengths: list[int], window: int | None) -> None:
    rng = np.random.default_rng(3)
    ops = make_backend(backend)
    for n_heads, n_kv_heads, head_dim in HEADS:
        batch = whole([[0] * n for n in lengths])
        shape = (len(batch.tokens), n_heads, head_dim)
        q = rng.standard_normal(shape).astype(np.float32)
        k, v = (rng.standard_normal((shape[0], n_kv_heads, head_dim)).astype(np.float32) for _ in "kv")
        expected = np.zeros(shape)
        for rows in (slice(a, b) for a, b in zip(batch.starts[:-1], batch.starts[1:], strict=True)):
            expected[rows] = definitions.attention(q[rows], k[rows], v[rows], batch.positions[rows].tolist(), window)
        assert relative_error(ops.attention(q, k, v, batch, 0, window), expected) < FLOAT32


@ALL
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_lengths_around_those_of_blocks(backend: str, dtype: str) -> None:
    for n_heads, n_kv_heads, head_dim in ((1, 1, 8), (3, 1, 34)):
        histories = Histories(
            backend, config(n_heads, n_kv_heads, head_dim, None), dtype=dtype, page_size=32, seed=6, room=4000
        )
        for n in (6, 15, 16, 17, 31, 47, 48, 49, 63, 64, 65, 127, 128, 129, 144, 145):
            sequence = histories.new()
            histories.check((sequence, n))
            histories.check((sequence, 1))
            histories.check((sequence, 18))
            histories.cache.free(sequence)


@ALL
def test_more_heads_than_a_block_has_queries(backend: str) -> None:
    histories = Histories(backend, config(300, 2, 4, None), dtype="f16", page_size=16, seed=10)
    sequence = histories.new()
    for n in (3, 1, 2):
        histories.check((sequence, n))


@ALL
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("window", [None, 700])
def test_lengths_around_those_of_chunks(backend: str, dtype: str, window: int | None) -> None:
    histories = Histories(backend, config(4, 2, 6, window), dtype=dtype, page_size=32, seed=7, room=3000)
    first, second = histories.new(), histories.new()
    histories.check((first, 510), (second, 30))
    histories.check((first, 1), (second, 9))
    histories.check((first, 1), (second, 2))
    histories.check((first, 1), (second, 1))
    histories.check((first, 12), (second, 1))
    histories.check((first, 498))
    for n in (1, 20, 1, 1):  # across 1,024
        histories.check((first, n), (second, 1))


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_results_do_not_depend_on_the_number_of_threads(backend: str, dtype: str, n: int) -> None:
    rng = np.random.default_rng(8)
    q, k, v = (rng.standard_normal((1500 + n, heads, 16)).astype(np.float32) for heads in (4, 2, 2))
    found = []
    for threads in (1, 3):
        ops = NativeOps(isa=backend.removeprefix("native-"), threads=threads)
        cache = KVCache(config(4, 2, 16, None), ops.zeros, 2000, dtype=dtype)
        sequence = cache.new()
        prompt = step(cache, [(sequence, [0] * 1500)])
        first = ops.attention(q[:1500], k[:1500], v[:1500], prompt, 0, None)
        rest = ops.attention(q[1500:], k[1500:], v[1500:], step(cache, [(sequence, [0] * n)]), 0, None)
        found.append(np.concatenate([first, rest]))
    np.testing.assert_array_equal(found[0], found[1])


@ALL
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_a_prompt_in_pieces_is_the_prompt_at_once(backend: str, dtype: str) -> None:
    rng = np.random.default_rng(9)
    ops = make_backend(backend)
    q, k, v = (rng.standard_normal((300, heads, 16)).astype(np.float32) for heads in (4, 2, 2))
    found = []
    for pieces in ([300], [100, 7, 1, 3, 150, 39]):
        cache = KVCache(config(4, 2, 16, 250), ops.zeros, 600, dtype=dtype)
        sequence, outs, at = cache.new(), [], 0
        for n in pieces:
            rows = slice(at, at + n)
            outs.append(ops.attention(q[rows], k[rows], v[rows], step(cache, [(sequence, [0] * n)]), 0, 250))
            at += n
        found.append(np.concatenate(outs))
    rounds = backend in PAIRS and dtype == "f16"
    # One piece is a single token, in float32: the difference is all that bfloat16 costs, of scores too.
    assert relative_error(found[1], found[0]) < (2 * BFLOAT16 if rounds else FLOAT32)


@ALL
def test_no_tokens(backend: str) -> None:
    empty = np.zeros((0, 2, 4), dtype=np.float32)
    nothing = np.zeros(0, dtype=np.int32)
    batch = Batch(nothing, nothing, np.zeros(1, dtype=np.int32))
    assert make_backend(backend).attention(empty, empty, empty, batch, 0, None).shape == (0, 2, 4)


@ALL
def test_large_scores_do_not_overflow(backend: str) -> None:
    batch = whole([[0] * 40])
    q = np.full((40, 1, 4), 1e3, dtype=np.float32)
    k = np.linspace(-1e3, 1e3, 160, dtype=np.float32).reshape(40, 1, 4)
    v = np.arange(160, dtype=np.float32).reshape(40, 1, 4)
    found = make_backend(backend).attention(q, k, v, batch, 0, None)
    np.testing.assert_allclose(found, v, rtol=1e-6)  # the newest key wins by far


@ALL
def test_what_lies_in_the_page_after_the_sequence_is_not_seen(backend: str) -> None:
    histories = Histories(backend, config(2, 1, 8, None), dtype="f32", page_size=16, seed=4)
    for pool in (*histories.cache.keys, *histories.cache.values):
        pool[:] = np.nan
    sequence = histories.new()
    histories.check((sequence, 5))
    histories.check((sequence, 1))


@ALL
def test_pages_that_the_window_has_let_go_are_not_looked_up(backend: str) -> None:
    histories = Histories(backend, config(2, 1, 8, 4), dtype="f32", page_size=4, seed=5)
    sequence = histories.new()
    histories.check((sequence, 13))
    batch = step(histories.cache, [(sequence, [0])])
    q, k, v = (histories.draw(1, heads) for heads in (2, 1, 1))
    expected = histories.ops.attention(q, k, v, batch, 0, 4)
    assert sequence.n_released > 0
    batch.table[:, : sequence.n_released] = 1 << 30  # no such page
    np.testing.assert_array_equal(histories.ops.attention(q, k, v, batch, 0, 4), expected)
