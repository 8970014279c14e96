"""The paged cache: accounting, shared pages, the rolling window, and any history of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from octuor.batch import step
from octuor.cache import KVCache, SequenceCache
from octuor.config import ModelConfig
from octuor.errors import CapacityError, RequestError
from octuor.ops.reference import ReferenceOps

PAGE = 4


def make(n_pages: int, window: int | None = None, dtype: str = "f32") -> KVCache:
    config = ModelConfig(
        dim=4, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=2, hidden_dim=4, vocab_size=8, sliding_window=window
    )
    return KVCache(config, ReferenceOps().zeros, n_pages * PAGE, dtype=dtype, page_size=PAGE)


def write(cache: KVCache, sequence: SequenceCache, marks: list[int]) -> None:
    """Append as many tokens, each leaving its mark in every layer's keys and, negated, values."""
    pages, places = step(cache, [(sequence, marks)]).slots
    for keys, values in zip(cache.keys, cache.values, strict=True):
        keys[pages, :, places] = np.asarray(marks, dtype=np.float32)[:, None, None]
        values[pages, :, places] = -np.asarray(marks, dtype=np.float32)[:, None, None]


def read(cache: KVCache, sequence: SequenceCache, first: int = 0) -> list[int]:
    """The marks that lie in the sequence's pages from position `first` on; all layers must agree."""
    at = np.arange(first, sequence.length)
    table = cache.table((sequence,))[0]
    pages, places = table[at // PAGE], at % PAGE
    found = cache.keys[0][pages, :, places]
    for keys, values in zip(cache.keys, cache.values, strict=True):
        np.testing.assert_array_equal(keys[pages, :, places], found)
        np.testing.assert_array_equal(values[pages, :, places], -found)
    return [int(mark) for mark in found[:, 0, 0]]


def state(cache: KVCache, *sequences: SequenceCache) -> tuple[Any, ...]:
    return cache.n_free_tokens, [(s.length, s.n_released, list(s.pages)) for s in sequences]


# ---- accounting ----------------------------------------------------------------------------------


def test_a_pool_is_rounded_up_to_whole_pages() -> None:
    config = ModelConfig(dim=4, n_layers=3, n_heads=2, n_kv_heads=1, head_dim=2, hidden_dim=4, vocab_size=8)
    cache = KVCache(config, ReferenceOps().zeros, 9, dtype="f16", page_size=PAGE)
    assert (cache.n_pages, cache.n_free_tokens) == (3, 12)
    assert len(cache.keys) == len(cache.values) == 3
    assert {(x.shape, x.dtype.name) for x in (*cache.keys, *cache.values)} == {((3, 1, PAGE, 2), "float16")}


@pytest.mark.parametrize("dtype", ["bf16", "float16", ""])
def test_unknown_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(RequestError, match=f"cache dtype: expected f16 or f32, found {dtype!r}"):
        make(2, dtype=dtype)


def test_append_takes_pages_only_when_the_last_is_full() -> None:
    cache = make(4)
    sequence = cache.new()
    free = []
    for _ in range(9):
        cache.append(sequence, 1)
        free.append(cache.n_free_tokens // PAGE)
    assert free == [3, 3, 3, 3, 2, 2, 2, 2, 1]
    assert (sequence.length, len(set(sequence.pages))) == (9, 3)


def test_append_of_nothing_changes_nothing() -> None:
    cache = make(2)
    sequence = cache.new()
    for n in (0, 3, 0):
        cache.append(sequence, n)
    assert (sequence.length, cache.n_free_tokens) == (3, 4)


def test_free_gives_everything_back() -> None:
    cache = make(4)
    sequence = cache.new()
    cache.append(sequence, 10)
    cache.free(sequence)
    assert state(cache, sequence) == (16, [(0, 0, [])])
    cache.append(sequence, 16)
    assert cache.n_free_tokens == 0


@pytest.mark.parametrize(("held", "more"), [(0, 17), (3, 14), (16, 1)])
def test_a_full_cache_raises_and_changes_nothing(held: int, more: int) -> None:
    cache = make(4)
    sequence = cache.new()
    write(cache, sequence, list(range(held)))
    before = state(cache, sequence)
    with pytest.raises(CapacityError, match=f"expected room for {more} more tokens, found {before[0]} of 16 free"):
        cache.append(sequence, more)
    assert state(cache, sequence) == before
    cache.append(sequence, 16 - held)
    assert read(cache, sequence)[:held] == list(range(held))


@pytest.mark.parametrize("length", [0, 1, 4, 5, 9])
def test_truncate_gives_back_pages_and_keeps_what_is_before(length: int) -> None:
    cache = make(4)
    sequence = cache.new()
    write(cache, sequence, list(range(9)))
    cache.truncate(sequence, length)
    assert (sequence.length, cache.n_free_tokens) == (length, 16 - PAGE * -(-length // PAGE))
    write(cache, sequence, [50, 51])
    assert read(cache, sequence) == [*range(length), 50, 51]


@pytest.mark.parametrize("length", [-1, 6])
def test_truncate_to_a_length_that_was_never_there(length: int) -> None:
    cache = make(4)
    sequence = cache.new()
    cache.append(sequence, 5)
    with pytest.raises(RequestError, match=rf"expected a length in 0\.\.5, found {length}"):
        cache.truncate(sequence, length)


# ---- forks ---------------------------------------------------------------------------------------


def test_a_fork_takes_no_pages_until_one_of_both_writes() -> None:
    cache = make(6)
    parent = cache.new()
    write(cache, parent, list(range(6)))
    child = cache.fork(parent)
    assert cache.n_free_tokens // PAGE == 4
    write(cache, child, [60])
    assert cache.n_free_tokens // PAGE == 3  # the half-filled page was copied
    assert child.pages[0] == parent.pages[0]
    assert child.pages[1] != parent.pages[1]
    write(cache, parent, [70, 71, 72])
    assert read(cache, parent) == [*range(6), 70, 71, 72]
    assert read(cache, child) == [*range(6), 60]


def test_a_fork_at_a_page_boundary_copies_nothing() -> None:
    cache = make(4)
    parent = cache.new()
    write(cache, parent, list(range(8)))
    child = cache.fork(parent)
    write(cache, child, [80])
    write(cache, parent, [90])
    assert cache.n_free_tokens == 0
    assert (read(cache, parent)[-1], read(cache, child)[-1]) == (90, 80)


@pytest.mark.parametrize("survivor", ["parent", "child"])
def test_a_fork_outlives_the_other(survivor: str) -> None:
    cache = make(3)
    both = {"parent": cache.new()}
    write(cache, both["parent"], list(range(6)))
    both["child"] = cache.fork(both["parent"])
    kept = both.pop(survivor)
    cache.free(both.popitem()[1])
    write(cache, kept, [60])  # the only user now: nothing to copy
    assert read(cache, kept) == [*range(6), 60]
    assert cache.n_free_tokens == 4


def test_copying_a_shared_page_needs_room_too() -> None:
    cache = make(2)
    parent = cache.new()
    write(cache, parent, list(range(6)))
    child = cache.fork(parent)
    before = state(cache, parent, child)
    with pytest.raises(CapacityError):
        cache.append(child, 1)
    assert state(cache, parent, child) == before
    assert read(cache, child) == list(range(6))


# ---- sliding window ------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 4, 5, 8, 11])
def test_a_window_holds_a_constant_number_of_pages(window: int) -> None:
    """The pool has pages for the window and one more, which it is always about to enter or to leave."""
    cache = make(-(-window // PAGE) + 1, window)
    sequence = cache.new()
    for position in range(20 * PAGE):
        write(cache, sequence, [position])
        first = max(0, position - window + 1)
        assert read(cache, sequence, first) == list(range(first, position + 1))


def test_pages_are_let_go_when_no_new_token_sees_them() -> None:
    cache = make(8, window=5)
    sequence = cache.new()
    write(cache, sequence, list(range(8)))
    assert sequence.n_released == 0
    write(cache, sequence, [8])  # sees 4 to 8
    assert (sequence.n_released, cache.n_free_tokens // PAGE) == (1, 6)


def test_released_pages_make_room_in_the_same_append() -> None:
    cache = make(2, window=3)
    sequence = cache.new()
    write(cache, sequence, list(range(8)))
    assert cache.n_free_tokens == 0
    write(cache, sequence, [8])
    assert read(cache, sequence, 6) == [6, 7, 8]


def test_truncate_past_the_window_is_refused_and_changes_nothing() -> None:
    cache = make(8, window=5)
    sequence = cache.new()
    for mark in range(13):
        write(cache, sequence, [mark])
    assert sequence.n_released == 2  # positions 8 on are held
    before = state(cache, sequence)
    with pytest.raises(CapacityError, match="truncate to 11: the sliding window has let go of positions before 8"):
        cache.truncate(sequence, 11)  # the next token would see 7
    assert state(cache, sequence) == before
    cache.truncate(sequence, 12)
    write(cache, sequence, [99])
    assert read(cache, sequence, 8) == [8, 9, 10, 11, 99]


def test_truncate_to_nothing_is_always_possible() -> None:
    cache = make(4, window=3)
    sequence = cache.new()
    for mark in range(15):
        write(cache, sequence, [mark])
    cache.truncate(sequence, 0)
    assert state(cache, sequence) == (16, [(0, 0, [])])
    write(cache, sequence, [7])
    assert read(cache, sequence) == [7]


@pytest.mark.parametrize("end", ["truncate", "free"])
def test_pages_let_go_may_be_another_sequence_s_by_now(end: str) -> None:
    cache = make(4, window=3)
    first, second = cache.new(), cache.new()
    for mark in range(11):
        write(cache, first, [mark])
    write(cache, second, list(range(20, 32)))  # all that is left, with the pages that first has let go
    assert cache.n_free_tokens == 0
    cache.truncate(first, 0) if end == "truncate" else cache.free(first)
    assert cache.n_free_tokens == PAGE
    write(cache, first, [1, 2, 3, 4])
    assert (read(cache, first), read(cache, second)) == ([1, 2, 3, 4], list(range(20, 32)))


# ---- any history ---------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens to a handful of sequences, each reads what a plain list would hold."""

    sequences = Bundle("sequences")

    @initialize(window=st.sampled_from([None, 1, 3, 6]), n_pages=st.integers(2, 12))
    def begin(self, window: int | None, n_pages: int) -> None:
        self.cache, self.window = make(n_pages, window), window
        self.expected: dict[SequenceCache, list[int]] = {}
        self.mark = 0

    @rule(target=sequences)
    def new(self) -> SequenceCache:
        sequence = self.cache.new()
        self.expected[sequence] = []
        return sequence

    @rule(sequence=sequences, n=st.integers(0, 11))
    def append(self, sequence: SequenceCache, n: int) -> None:
        marks = list(range(self.mark, self.mark + n))
        self.mark += n
        before = state(self.cache, *self.expected)
        try:
            write(self.cache, sequence, marks)
        except CapacityError:
            assert state(self.cache, *self.expected) == before
            assert before[0] < n + PAGE, "refused with room for all and for a copy"
        else:
            self.expected[sequence] += marks

    @rule(sequence=sequences, share=st.floats(0, 1))
    def truncate(self, sequence: SequenceCache, share: float) -> None:
        length = int(share * sequence.length)
        before = state(self.cache, *self.expected)
        try:
            self.cache.truncate(sequence, length)
        except CapacityError:
            assert state(self.cache, *self.expected) == before
            assert self.first_visible(length) < sequence.n_released * PAGE
        else:
            del self.expected[sequence][length:]

    @rule(target=sequences, sequence=sequences)
    def fork(self, sequence: SequenceCache) -> SequenceCache:
        other = self.cache.fork(sequence)
        self.expected[other] = list(self.expected[sequence])
        return other

    @rule(sequence=consumes(sequences))
    def free(self, sequence: SequenceCache) -> None:
        self.cache.free(sequence)
        del self.expected[sequence]

    def first_visible(self, length: int) -> int:
        """The first position that the token after `length` others sees."""
        return 0 if self.window is None else max(0, length - self.window + 1)

    @invariant()
    def all_read_what_they_wrote(self) -> None:
        for sequence, marks in self.expected.items():
            first = self.first_visible(len(marks))
            assert read(self.cache, sequence, first) == marks[first:]

    @invariant()
    def no_page_is_lost_or_given_twice(self) -> None:
        held = {page for sequence in self.expected for page in sequence.pages[sequence.n_released :]}
        assert len(held) * PAGE + self.cache.n_free_tokens == self.cache.n_pages * PAGE


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
