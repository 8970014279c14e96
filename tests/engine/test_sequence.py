"""How prompts are cut: single tokens and parts of at least two, whatever the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octuor.batch import alone_in_prompt, cut
from octuor.engine.sequence import Sequence


def masks() -> st.SearchStrategy[bytearray]:
    """Prompts of which the model said some parts itself, single tokens among the rest marked as they are."""
    return st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=6).map(_mask)


def _mask(parts: list[tuple[int, bool]]) -> bytearray:
    spoken, at = [], 0
    for length, is_spoken in parts:
        if is_spoken:
            spoken.append(range(at, at + length))
        at += length
    return alone_in_prompt(at, spoken)


@given(masks(), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_any_cuts_cover_the_prompt_in_parts_that_are_allowed(alone: bytearray, limits: list[int]) -> None:
    at = 0
    for limit in [*limits, *[3] * len(alone)]:
        runs = cut(alone, at, limit)
        assert sum(map(len, runs)) <= limit
        for run in runs:
            assert run.start == at
            at = run.stop
            assert (len(run) == 1) == bool(alone[run.start])
            assert not any(alone[i] for i in run) or len(run) == 1
    assert at == len(alone)  # three at a time always get on


@given(masks(), st.integers(2, 16))
def test_known_pages_leave_something_that_can_be_cut(alone: bytearray, page_size: int) -> None:
    sequence = Sequence("", list(range(len(alone))), [])
    sequence.alone = alone
    for n_matched in range(len(alone) // page_size + 1):
        at = sequence.reusable(n_matched, page_size) * page_size
        assert at < len(alone)
        runs = cut(alone, at, len(alone))
        assert runs
        assert runs[-1].stop == len(alone)
        if at and not alone[at] and not alone[at - 1]:
            assert len(runs[0]) >= 2


def test_an_answer_grows_alone() -> None:
    sequence = Sequence("a", [1, 5, 6], [])
    sequence.extend(9)
    assert (sequence.ids, sequence.answer, list(sequence.alone)) == ([1, 5, 6, 9], [9], [0, 0, 0, 1])
    assert sequence.n_pending == 4


def test_page_keys_tell_tokens_and_how_they_were_computed() -> None:
    said = Sequence("", [1, 2, 3, 4, 5, 6], [range(2, 4)])
    read = Sequence("", [1, 2, 3, 4, 5, 6], [])
    assert said.page_keys(3, 2)[0] == read.page_keys(3, 2)[0]
    assert said.page_keys(3, 2)[1] != read.page_keys(3, 2)[1]
    assert said.page_keys(3, 2)[2] == read.page_keys(3, 2)[2]
