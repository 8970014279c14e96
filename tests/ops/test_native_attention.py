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
from octuor.ops import Ops
from toys import BACKENDS, make_backend, relative_error

F32Array = NDArray[np.float32]

FLOAT32 = 1e-5  # softmax and sums of up to 100 terms in float32, relative to the largest result
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

    def __init__(self, ops: Ops, shape: ModelConfig, *, dtype: str, page_size: int, seed: int) -> None:
        self.ops, self.shape, self.dtype = ops, shape, dtype
        self.cache = KVCache(shape, ops.zeros, 400, dtype=dtype, page_size=page_size)
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

    def run(self, work: list[tuple[SequenceCache, int]]) -> float:
        """Give each sequence its next n tokens in one call; returns the result's relative error."""
        batch = step(self.cache, [(sequence, [0] * n) for sequence, n in work])
        heads, kv = self.shape.n_heads, self.shape.n_kv_heads
        q, k, v = (self.draw(len(batch.tokens), h) for h in (heads, kv, kv))
        found = self.ops.attention(q, k, v, batch, 0, self.shape.sliding_window)
        expected = np.zeros(q.shape)
        for b, (sequence, _) in enumerate(work):
            rows = slice(batch.starts[b], batch.starts[b + 1])
            for kept, fresh in ((self.keys, k), (self.values, v)):
                kept[sequence] = np.concatenate([kept[sequence], self.as_cached(fresh[rows])])
            expected[rows] = definitions.attention(
                q[rows], self.keys[sequence], self.values[sequence], batch.positions[rows].tolist(),
                self.shape.sliding_window,
            )  # fmt: skip
        return relative_error(found, expected)

    def as_cached(self, x: F32Array) -> F32Array:
        return x.astype(np.float16).astype(np.float32) if self.dtype == "f16" else x


@ALL
@WINDOWS
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_prompts_and_answers_side_by_side(backend: str, dtype: str, window: int | None) -> None:
    for seed, heads in enumerate(HEADS):
        histories = Histories(make_backend(backend), config(*heads, window), dtype=dtype, page_size=5, seed=seed)
        first, second, third = histories.new(), histories.new(), histories.new()
        assert histories.run([(first, 17)]) < FLOAT32
        assert histories.run([(first, 1), (second, 40), (third, 3)]) < FLOAT32
        assert histories.run([(first, 1), (second, 1), (third, 1)]) < FLOAT32
        assert histories.run([(third, 12), (first, 0), (second, 2)]) < FLOAT32


@ALL
@WINDOWS
def test_forked_and_cut_back_sequences(backend: str, window: int | None) -> None:
    histories = Histories(make_backend(backend), config(4, 2, 12, window), dtype="f32", page_size=4, seed=1)
    first = histories.new()
    assert histories.run([(first, 14)]) < FLOAT32
    second = histories.fork(first)
    assert histories.run([(first, 3), (second, 5)]) < FLOAT32
    histories.truncate(second, 15)
    assert histories.run([(second, 1), (first, 1)]) < FLOAT32
    histories.cache.free(first)
    third = histories.new()  # takes pages that hold another sequence's keys
    assert histories.run([(third, 6), (second, 1)]) < FLOAT32


@ALL
def test_a_window_that_has_rolled_on_for_long(backend: str) -> None:
    histories = Histories(make_backend(backend), config(2, 1, 8, 6), dtype="f16", page_size=4, seed=2)
    sequence, other = histories.new(), histories.new()
    for _ in range(30):
        assert histories.run([(sequence, 1), (other, 2)]) < FLOAT32
    assert histories.run([(sequence, 9)]) < FLOAT32


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
    histories = Histories(make_backend(backend), config(2, 1, 8, None), dtype="f32", page_size=16, seed=4)
    for pool in (*histories.cache.keys, *histories.cache.values):
        pool[:] = np.nan
    sequence = histories.new()
    assert histories.run([(sequence, 5)]) < FLOAT32
    assert histories.run([(sequence, 1)]) < FLOAT32


@ALL
def test_pages_that_the_window_has_let_go_are_not_looked_up(backend: str) -> None:
    ops = make_backend(backend)
    histories = Histories(ops, config(2, 1, 8, 4), dtype="f32", page_size=4, seed=5)
    sequence = histories.new()
    assert histories.run([(sequence, 13)]) < FLOAT32
    batch = step(histories.cache, [(sequence, [0])])
    q, k, v = (histories.draw(1, heads) for heads in (2, 1, 1))
    expected = ops.attention(q, k, v, batch, 0, 4)
    assert sequence.n_released > 0
    batch.table[:, : sequence.n_released] = 1 << 30  # no such page
    np.testing.assert_array_equal(ops.attention(q, k, v, batch, 0, 4), expected)
