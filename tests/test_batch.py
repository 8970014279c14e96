"""Batches: the flat axis, positions, and where keys and values go."""

from dataclasses import replace

import numpy as np
import pytest

from octuor.batch import Batch, alone_in_prompt, cut, step, whole
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.errors import CapacityError
from octuor.ops.reference import ReferenceOps

CONFIG = ModelConfig(dim=4, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=2, hidden_dim=4, vocab_size=8)


def cache(n_tokens: int, page_size: int = 4) -> KVCache:
    return KVCache(CONFIG, ReferenceOps().zeros, n_tokens, dtype="f32", page_size=page_size)


def assert_rows(batch: Batch, tokens: list[int], positions: list[int], starts: list[int]) -> None:
    for found, expected in ((batch.tokens, tokens), (batch.positions, positions), (batch.starts, starts)):
        assert found.tolist() == expected
        assert found.dtype == np.int32


def test_whole_sequences_each_start_at_position_0() -> None:
    batch = whole([[5, 6, 7], np.array([1]), [], [2, 3]])
    assert_rows(batch, [5, 6, 7, 1, 2, 3], [0, 1, 2, 0, 0, 1], [0, 3, 4, 4, 6])
    assert batch.cache is None


def test_last_rows_are_those_that_choose_the_next_tokens() -> None:
    assert whole([[5, 6, 7], [1], [2, 3]]).last_rows.tolist() == [2, 3, 5]


def test_a_step_continues_each_sequence_where_it_stands() -> None:
    """The example of Batch's docstring: a prompt beside a sequence that decodes its 8th token."""
    pool = cache(32)
    old, new = pool.new(), pool.new()
    step(pool, [(old, [9] * 7)])
    batch = step(pool, [(new, [5, 6, 7]), (old, [42])])
    assert_rows(batch, [5, 6, 7, 42], [0, 1, 2, 7], [0, 3, 4])
    assert (batch.cache, batch.sequences) == (pool, (new, old))
    assert (new.length, old.length) == (3, 8)


def test_slots_are_the_page_and_place_of_each_token() -> None:
    pool = cache(32)
    a, b = pool.new(), pool.new()
    step(pool, [(a, [0] * 3)])
    batch = step(pool, [(a, [0] * 2), (b, [0] * 5)])
    pages, places = batch.slots
    assert places.tolist() == [3, 0, 0, 1, 2, 3, 0]
    assert pages.tolist() == [a.pages[0], a.pages[1], *[b.pages[0]] * 4, b.pages[1]]
    assert len({*zip(pages.tolist(), places.tolist(), strict=True)}) == 7


def test_the_table_lists_pages_and_pads_shorter_sequences() -> None:
    pool = cache(32)
    a, b = pool.new(), pool.new()
    batch = step(pool, [(a, [0] * 9), (b, [0])])
    assert batch.table.dtype == np.int32
    assert batch.table[0].tolist() == a.pages
    assert batch.table[1, :1].tolist() == b.pages
    assert batch.table.shape == (2, 3)


def test_a_step_that_does_not_fit_changes_no_sequence() -> None:
    pool = cache(12)
    a, b = pool.new(), pool.new()
    step(pool, [(a, [0] * 3)])
    with pytest.raises(CapacityError):
        step(pool, [(a, [0] * 4), (b, [0] * 8)])
    assert (a.length, b.length, pool.n_free_tokens) == (3, 0, 8)
    assert_rows(step(pool, [(b, [1] * 8)]), [1] * 8, [*range(8)], [0, 8])


def test_entries_of_one_sequence_follow_one_another() -> None:
    pool = cache(32)
    a, b = pool.new(), pool.new()
    step(pool, [(a, [9] * 3)])
    batch = step(pool, [(a, [1]), (b, [5, 6]), (a, [2]), (a, []), (a, [3, 4])])
    assert_rows(batch, [1, 5, 6, 2, 3, 4], [3, 0, 1, 4, 5, 6], [0, 1, 3, 4, 4, 6])
    assert batch.sequences == (a, b, a, a, a)
    assert (a.length, b.length) == (7, 2)
    assert (batch.table[0] == batch.table[2]).all()


def test_entries_of_one_sequence_that_do_not_fit_change_none() -> None:
    pool = cache(12)
    a, b = pool.new(), pool.new()
    step(pool, [(a, [0] * 3)])
    with pytest.raises(CapacityError):
        step(pool, [(b, [0] * 2), (a, [1]), (a, [2]), (b, [0] * 7)])
    assert (a.length, b.length, pool.n_free_tokens) == (3, 0, 8)


def test_a_window_keeps_what_the_first_of_several_entries_sees() -> None:
    pool = KVCache(replace(CONFIG, sliding_window=4), ReferenceOps().zeros, 16, dtype="f32", page_size=4)
    a = pool.new()
    step(pool, [(a, [0] * 6)])
    step(pool, [(a, [1])] * 5)  # the first sees positions 3 to 6, the last 7 to 10
    assert a.n_released == 0
    step(pool, [(a, [1])])  # sees 8 to 11
    assert a.n_released == 2


# ---- which tokens run together ------------------------------------------------------------------


def test_what_the_model_said_is_computed_alone() -> None:
    assert alone_in_prompt(8, [range(3, 5)]) == bytearray([0, 0, 0, 1, 1, 0, 0, 0])


def test_a_single_token_between_is_alone_too() -> None:
    assert alone_in_prompt(6, [range(1, 3)]) == bytearray([1, 1, 1, 0, 0, 0])
    assert alone_in_prompt(1, []) == bytearray([1])


@pytest.mark.parametrize(
    ("alone", "start", "limit", "runs"),
    [
        ([0] * 8, 0, 8, [range(8)]),
        ([0] * 8, 0, 5, [range(5)]),
        ([0] * 8, 0, 7, [range(6)]),  # 7 would leave one behind
        ([0] * 8, 6, 9, [range(6, 8)]),
        ([0] * 3, 0, 2, []),  # neither two and one, nor one and two
        ([0, 0, 1, 1, 0, 0], 0, 6, [range(2), range(2, 3), range(3, 4), range(4, 6)]),
        ([0, 0, 1, 1, 0, 0], 2, 3, [range(2, 3), range(3, 4)]),
        ([1], 0, 1, [range(1)]),
        ([0, 0], 0, 0, []),
    ],
)
def test_cut(alone: list[int], start: int, limit: int, runs: list[range]) -> None:
    assert cut(bytearray(alone), start, limit) == runs
