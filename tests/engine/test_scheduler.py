"""The scheduler over pages without a model: nobody is forgotten, no page is lost, nothing is computed wrongly."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octuor.cache import KVCache
from octuor.engine.scheduler import Scheduler, Work
from octuor.engine.sequence import Sequence
from octuor.ops.reference import ReferenceOps
from tiny_models import TINY

PAGE = 4


class World:
    """A scheduler whose steps take no time; each sequence answers a number of tokens of its own."""

    def __init__(self, n_pages: int, *, max_batch: int = 8, chunk: int = 16) -> None:
        self.cache = KVCache(TINY, ReferenceOps().zeros, n_pages * PAGE, dtype="f32", page_size=PAGE)
        self.scheduler = Scheduler(self.cache, max_batch, lambda *_: chunk)
        self.wanted: dict[Sequence, int] = {}
        self.steps: list[list[Work]] = []

    def ask(self, n_prompt: int, n_answer: int, *, tenant: str = "", n_choices: int = 1, first: int = 3) -> Sequence:
        sequence = Sequence(tenant, list(range(first, first + n_prompt)), [], n_choices=n_choices)
        self.wanted[sequence] = n_answer
        self.scheduler.waiting.push(sequence)
        return sequence

    def step(self) -> list[Work]:
        """One step, checked."""
        work = self.scheduler.schedule()
        seen = set()
        for part in work:
            sequence = part.sequence
            assert sequence not in seen
            seen.add(sequence)
            assert sequence.cache is not None
            at = sequence.n_computed
            for run in part.runs:
                assert run.start == at
                assert (len(run) == 1) == bool(sequence.alone[run.start])
                self.cache.append(sequence.cache, len(run))  # raises where the scheduler promised too much
                at = run.stop
        for part in work:
            self.scheduler.computed(part)
            if part.is_last:
                self._answer(part.sequence)
        self.steps.append(work)
        return work

    def _answer(self, sequence: Sequence) -> None:
        speakers = [sequence]
        if sequence.n_choices > 1:
            others = self.scheduler.fork(sequence)
            for other in others:
                self.wanted[other] = self.wanted[sequence]
            speakers += others
        for speaker in speakers:
            speaker.extend(7 + len(speaker.answer))
            if len(speaker.answer) == self.wanted[speaker]:
                self.scheduler.remove(speaker)

    def finish(self, most: int = 5000) -> None:
        while self.scheduler.running or len(self.scheduler.waiting):
            assert self.step(), "work is left and nobody runs"
            assert len(self.steps) < most

    def assert_nothing_is_lost(self) -> None:
        self.scheduler.prefixes.clear()
        assert self.cache.n_free_pages == self.cache.n_pages
        assert all(len(sequence.answer) == n for sequence, n in self.wanted.items())


def tokens(work: list[Work]) -> list[int]:
    return [part.n_tokens for part in work]


def test_answers_come_first_and_a_prompt_joins_in_parts() -> None:
    world = World(64, chunk=8)
    first = world.ask(4, 20)
    world.step()
    world.ask(20, 1, first=100)
    assert [tokens(world.step()) for _ in range(4)] == [[1, 8], [1, 8], [1, 4], [1]]
    assert len(first.answer) == 5


def test_a_known_beginning_is_not_computed_again() -> None:
    world = World(64)
    world.ask(14, 1)
    world.finish()
    again = world.ask(14, 1)
    assert tokens(world.step()) == [2]  # three pages of four are known
    assert len(again.answer) == 1
    assert (world.scheduler.n_looked_up, world.scheduler.n_found) == (28, 12)


def test_a_beginning_that_would_leave_a_single_token_is_taken_a_page_shorter() -> None:
    world = World(64)
    world.ask(13, 1)
    world.finish()
    world.ask(13, 1)
    assert tokens(world.step()) == [5]


def test_answers_are_known_to_the_next_turn() -> None:
    world = World(64)
    first = world.ask(6, 7)
    world.finish()
    said = range(6, 13)
    again = Sequence("", [*first.ids, 2, 50, 51], [range(said.start, said.stop + 1)])
    world.wanted[again] = 1
    world.scheduler.waiting.push(again)
    assert tokens(world.step()) == [4]  # three pages of 16 tokens are known


def test_readers_take_nothing_over() -> None:
    world = World(64)
    world.ask(14, 1)
    world.finish()
    sequence = Sequence("", list(range(3, 17)), [], is_reader=True)
    world.wanted[sequence] = 1
    world.scheduler.waiting.push(sequence)
    assert tokens(world.step()) == [14]


def test_a_full_cache_pauses_the_latest_and_loses_nothing() -> None:
    world = World(10)
    early, late = world.ask(6, 25), world.ask(6, 25, first=50)
    world.finish()
    assert world.scheduler.n_preemptions > 0
    assert len(early.answer) == len(late.answer) == 25
    world.assert_nothing_is_lost()


def test_known_pages_give_way_before_anyone_is_paused() -> None:
    world = World(8)
    world.ask(14, 1)
    world.finish()
    world.ask(26, 3, first=200)
    world.finish()
    assert world.scheduler.n_preemptions == 0
    world.assert_nothing_is_lost()


def test_choices_share_the_prompt() -> None:
    world = World(64)
    world.ask(10, 5, n_choices=4)
    world.step()
    used = world.cache.n_pages - world.cache.n_free_pages
    assert used == 3
    world.finish()
    world.assert_nothing_is_lost()


def test_choices_count_as_places() -> None:
    world = World(64, max_batch=4)
    world.ask(5, 5, n_choices=3)
    world.ask(5, 5, n_choices=2, first=50)
    world.step()
    world.step()
    assert len(world.scheduler.running) == 3


def test_tenants_take_turns() -> None:
    world = World(64, max_batch=1)
    many = [world.ask(8, 4, tenant="many", first=10 * n) for n in range(1, 5)]
    one = world.ask(8, 4, tenant="one", first=500)
    order = []
    while world.scheduler.running or len(world.scheduler.waiting):
        work = world.step()
        if work[0].sequence not in order:
            order.append(work[0].sequence)
    assert order == [many[0], one, *many[1:]]


@pytest.mark.parametrize("when", [0, 1, 3, 9])
def test_removed_at_any_time(when: int) -> None:
    world = World(64, chunk=4)
    stays, goes = world.ask(10, 8), world.ask(10, 8, first=100)
    for _ in range(when):
        world.step()
    world.scheduler.remove(goes)
    del world.wanted[goes]
    world.finish()
    assert len(stays.answer) == 8
    world.assert_nothing_is_lost()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(12, 40), st.integers(1, 6), st.integers(3, 20))
def test_whatever_comes_ends_and_no_page_is_lost(seed: int, n_pages: int, max_batch: int, chunk: int) -> None:
    """Prompts with shared beginnings, several choices and cancellations over a cache that holds a few of them."""
    rng = random.Random(seed)
    world = World(n_pages, max_batch=max_batch, chunk=chunk)
    for _ in range(12):
        most = n_pages * PAGE // 2
        n_prompt = rng.randint(1, most)
        n_choices = rng.randint(1, min(3, max_batch))
        n_answer = rng.randint(1, max(1, min(12, n_pages * PAGE - n_prompt - 1)))
        world.ask(n_prompt, n_answer, tenant=rng.choice("ab"), n_choices=n_choices, first=rng.choice([3, 3, 3, 60]))
        for _ in range(rng.randint(0, 3)):
            world.step()
        if world.scheduler.running and rng.random() < 0.2:
            goes = rng.choice(world.scheduler.running)
            world.scheduler.remove(goes)
            world.wanted.pop(goes)
    world.finish()
    world.assert_nothing_is_lost()
