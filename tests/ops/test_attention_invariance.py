"""To the last bit, attention of a token depends on its own sequence only, and not on how that is cut.

What native/kernels_attention.h promises: a token that stands alone in its entry is a decoded one; two or more are a
prompt, cut anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from definitions import random
from octuor.batch import Batch, step, whole
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.ops.native import NativeOps, implementations

F32Array = NDArray[np.float32]
Part = tuple[F32Array, ...]  # queries, keys and values of some tokens

ALL = pytest.mark.parametrize("isa", implementations())
DTYPES = pytest.mark.parametrize("dtype", ["f16", "f32"])
HEADS = ((8, 2, 34), (3, 3, 16), (40, 1, 10), (150, 1, 4))  # H, K, C; the last has more heads than a block has queries
WINDOWS = (None, 1, 7, 151)
LENGTH = 230


class Sequences:
    """Queries, keys and values of one text, given to a cache in any cuts and any company."""

    def __init__(
        self,
        isa: str,
        heads: tuple[int, int, int],
        window: int | None,
        dtype: str,
        length: int = LENGTH,
        threads: int = 2,
    ) -> None:
        n_heads, n_kv_heads, head_dim = heads
        self.config = ModelConfig(
            dim=8, n_layers=1, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, hidden_dim=8, vocab_size=8,
            sliding_window=window,
        )  # fmt: skip
        self.ops, self.dtype, self.length = NativeOps(isa, threads=threads), dtype, length
        self.text = tuple(random(length, n, head_dim, seed=n) * 2 for n in (n_heads, n_kv_heads, n_kv_heads))
        self.other = tuple(random(length, *x.shape[1:], seed=99) for x in self.text)

    def cache(self, *, page_size: int = 32, room: int = 1) -> KVCache:
        return KVCache(self.config, self.ops.zeros, room * (self.length + 64), dtype=self.dtype, page_size=page_size)

    def attend(self, batch: Batch, parts: Sequence[Part]) -> F32Array:
        q, k, v = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return self.ops.attention(q, k, v, batch, 0, self.config.sliding_window)

    def own(self, first: int, end: int) -> Part:
        return tuple(x[first:end] for x in self.text)

    def run(self, pieces: Sequence[int], *, page_size: int = 32) -> F32Array:
        """The whole text, a call for each piece."""
        cache = self.cache(page_size=page_size)
        sequence, found, at = cache.new(), [], 0
        for n in pieces:
            found.append(self.attend(step(cache, [(sequence, [0] * n)]), [self.own(at, at + n)]))
            at += n
        assert at == self.length
        return np.concatenate(found)

    def run_in_company(self, pieces: Sequence[int], others: Sequence[int]) -> F32Array:
        """The same beside other sequences, each of which has others[i] tokens before and 1 or 3 in every call."""
        cache = self.cache(room=1 + len(others))
        company = [cache.new() for _ in others]
        self.attend(
            step(cache, [(c, [0] * n) for c, n in zip(company, others, strict=True)]),
            [tuple(x[:n] for x in self.other) for n in others],
        )
        sequence, found, at = cache.new(), [], 0
        for i, n in enumerate(pieces):
            beside = [(c, 1 if (i + j) % 2 else 3) for j, c in enumerate(company)]
            work = [(c, [0] * m) for c, m in beside]
            place = i % (len(work) + 1)
            work.insert(place, (sequence, [0] * n))
            batch = step(cache, work)
            parts = [tuple(x[:m] for x in self.other) for _, m in beside]
            parts.insert(place, self.own(at, at + n))
            found.append(self.attend(batch, parts)[batch.starts[place] : batch.starts[place + 1]])
            at += n
        return np.concatenate(found)


def cuts(length: int, seed: int, most: int = 90) -> list[int]:
    """Pieces of at least 2 tokens that make up the length."""
    rng = np.random.default_rng(seed)
    pieces: list[int] = []
    while (left := length - sum(pieces)) > most + 2:
        pieces.append(int(rng.integers(2, most)) if rng.integers(2) else int(rng.integers(2, 7)))
    return [*pieces, left]


@ALL
@DTYPES
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attention_of_a_prompt_is_the_same_however_it_is_cut(
    isa: str, dtype: str, window: int | None, heads: tuple[int, int, int]
) -> None:
    text = Sequences(isa, heads, window, dtype)
    expected = text.run([LENGTH])
    for seed in range(3):
        found = text.run(cuts(LENGTH, seed), page_size=(32, 5, 1)[seed])
        np.testing.assert_array_equal(found, expected, err_msg=f"cut {seed}")
    np.testing.assert_array_equal(text.run_in_company(cuts(LENGTH, 4), [1, 70, 3, 20]), expected)


@ALL
@DTYPES
@pytest.mark.parametrize("window", [None, 7, 151])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attention_of_decoded_tokens_is_the_same_alone_in_company_and_once_more(
    isa: str, dtype: str, window: int | None, heads: tuple[int, int, int]
) -> None:
    text, prompt, answer = Sequences(isa, heads, window, dtype), LENGTH - 20, 20
    expected = text.run([prompt] + [1] * answer)
    np.testing.assert_array_equal(text.run_in_company([prompt] + [1] * answer, [1, 70, 3, 20]), expected)
    cache = text.cache(page_size=5)
    sequence = cache.new()
    text.attend(step(cache, [(sequence, [0] * prompt)]), [text.own(0, prompt)])
    again = step(cache, [(sequence, [0])] * answer)  # entries of one sequence, all in one call
    np.testing.assert_array_equal(text.attend(again, [text.own(prompt, LENGTH)]), expected[prompt:])
    cache = text.cache()
    sequence = cache.new()
    mixed = step(cache, [(sequence, [0] * prompt), *[(sequence, [0])] * (answer - 9), (sequence, [0] * 9)])
    found = text.attend(mixed, [text.own(0, LENGTH)])
    np.testing.assert_array_equal(found[:-9], expected[:-9])
    np.testing.assert_array_equal(found[-9:], text.run([LENGTH])[-9:])  # a prompt again


@ALL
@DTYPES
@pytest.mark.parametrize("window", [None, 1501])
def test_attention_across_chunks_of_keys(isa: str, dtype: str, window: int | None) -> None:
    """Chunks that are tasks of their own, with several threads and a short piece, and chunks merged on the way."""
    length = 2600
    whole_text, first, second = (
        Sequences(isa, (2, 1, 6), window, dtype, length, threads).run(pieces)
        for threads, pieces in ((2, [length]), (3, [1020, 7, 1000, 30, 2, 540, 1]), (1, [2050, 549, 1]))
    )
    np.testing.assert_array_equal(first[:-1], whole_text[:-1])
    np.testing.assert_array_equal(second[:-1], whole_text[:-1])
    np.testing.assert_array_equal(second[-1], first[-1])  # a token by itself


@ALL
@pytest.mark.parametrize("window", [None, 7])
def test_attention_of_whole_sequences_is_the_same_in_any_company(isa: str, window: int | None) -> None:
    text = Sequences(isa, HEADS[0], window, "f32")
    lengths = [17, 1, 0, 220, 2]
    together = text.attend(whole([[0] * n for n in lengths]), [text.own(0, n) for n in lengths])
    ends = np.cumsum(lengths)
    for n, end in zip(lengths, ends, strict=True):
        alone = text.attend(whole([[0] * n]), [text.own(0, n)])
        np.testing.assert_array_equal(together[end - n : end], alone)
    longest = text.attend(whole([[0] * 220]), [text.own(0, 220)])
    np.testing.assert_array_equal(text.attend(whole([[0] * 17]), [text.own(0, 17)]), longest[:17])
