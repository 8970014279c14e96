"""Who runs in the next step: answers first, then parts of prompts under a budget; pauses when the cache is full.

Knows tokens, pages and turns; no arrays, no text, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octuor.batch import cut
from octuor.cache import KVCache
from octuor.engine.prefix import ROOT, PrefixIndex
from octuor.engine.queue import FairQueue
from octuor.engine.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """What a step computes of one sequence: runs of its ids, one after the other."""

    sequence: Sequence
    runs: list[range]

    @property
    def n_tokens(self) -> int:
        """Tokens in all runs."""
        return self.runs[-1].stop - self.runs[0].start

    @property
    def is_last(self) -> bool:
        """Whether the next token can be chosen after it."""
        return self.runs[-1].stop == len(self.sequence.ids)


class Scheduler:
    """Sequences that run and wait, over one cache.

    max_batch       choices that run at once
    budget          prompt tokens for a step: (sequences that answer, prompts to read) -> tokens
    reuses_prefixes False where a page cannot be shared (a sliding window lets go of them)
    """

    def __init__(
        self, cache: KVCache, max_batch: int, budget: Callable[[int, int], int], *, reuses_prefixes: bool = True
    ) -> None:
        self.running: list[Sequence] = []  # in the order in which they came to run
        self.waiting = FairQueue()
        self.prefixes = PrefixIndex(cache)
        self.n_preemptions = 0
        self.n_looked_up = self.n_found = 0  # prompt tokens, and those that were cached
        self._cache = cache
        self._max_batch = max_batch
        self._budget = budget
        self._reuses_prefixes = reuses_prefixes

    def schedule(self) -> list[Work]:
        """The work of the next step; [] where there is none. Room in the cache is there for all of it."""
        self._admit()
        work: list[Work] = []
        reserved = 0
        for sequence in [found for found in self.running if found.is_decoding]:
            if sequence.cache is None:  # paused for one before it
                continue
            reserved += self._room(sequence, 1, reserved)
            if sequence.cache is not None:
                n = sequence.n_computed
                work.append(Work(sequence, [range(n, n + 1)]))
        work = [part for part in work if part.sequence.cache is not None]
        reserved = sum(self._needed(part.sequence, 1) for part in work)
        prompts = [found for found in self.running if not found.is_decoding]
        left = self._budget(len(work), len(prompts) + len(self.waiting)) if prompts else 0
        for sequence in prompts:
            runs = cut(sequence.alone, sequence.n_computed, left)
            while runs and not self._free_up(reserved + self._needed(sequence, _length(runs))):
                runs = cut(sequence.alone, sequence.n_computed, _length(runs) // 2)
            if runs:
                work.append(Work(sequence, runs))
                reserved += self._needed(sequence, _length(runs))
                left -= _length(runs)
        if not work and len(self.running) > 1:  # prompts alone fill the cache: the latest waits
            self._pause(self.running[-1])
            return self.schedule()
        return work

    def computed(self, work: Work) -> None:
        """Account for work that was done: its full pages become known, its tenant has had its tokens."""
        sequence = work.sequence
        self.waiting.charge(sequence.tenant, work.n_tokens)
        if not self._reuses_prefixes or sequence.cache is None:
            return
        size = self._cache.page_size
        n_full = sequence.n_computed // size
        if n_full == sequence.n_indexed:
            return
        keys = sequence.page_keys(n_full, size)
        for page in range(sequence.n_indexed, n_full):
            sequence.node = self.prefixes.insert(sequence.node, keys[page], sequence.cache.pages[page])
        sequence.n_indexed = n_full

    def fork(self, sequence: Sequence) -> list[Sequence]:
        """The other choices of a sequence whose prompt is computed; they run from now on."""
        assert sequence.cache is not None
        others = [sequence.fork(self._cache.fork(sequence.cache)) for _ in range(sequence.n_choices - 1)]
        sequence.n_choices = 1
        self.running.extend(others)
        return others

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, running or waiting; what it computed stays known."""
        if not self.waiting.remove(sequence) and sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        self.waiting.forget_idle({found.tenant for found in self.running})

    def _admit(self) -> None:
        """Let waiting sequences run while there are places, and pages for the whole of each."""
        while (sequence := self.waiting.peek()) is not None:
            n_places = sum(found.n_choices for found in self.running) + sequence.n_choices
            if self.running and n_places > self._max_batch:
                return
            pages, node = self._known_pages(sequence)
            for page in pages:  # not to be evicted for the rest
                self._cache.hold(page)
            size = self._cache.page_size
            wanted = -(-(len(sequence.ids) + 1) // size) - len(pages) + len(self.running)
            promised = sum(max(0, self._needed(found, found.n_pending)) for found in self.running)
            has_room = not self.running or self._free_up(wanted + promised)
            if has_room:
                self.waiting.remove(sequence)
                sequence.cache = self._cache.adopt(pages)
                sequence.node, sequence.n_indexed = node, len(pages)
                self.running.append(sequence)
                self.n_looked_up += len(sequence.ids)
                self.n_found += len(pages) * size
            for page in pages:
                self._cache.drop(page)
            if not has_room:
                return

    def _known_pages(self, sequence: Sequence) -> tuple[list[int], int]:
        if not self._reuses_prefixes or sequence.is_reader:
            return [], ROOT
        size = self._cache.page_size
        keys = sequence.page_keys((len(sequence.ids) - 1) // size, size)
        pages, node = self.prefixes.match(keys)
        n = sequence.reusable(len(pages), size)
        return (pages, node) if n == len(pages) else self.prefixes.match(keys[:n])

    def _needed(self, sequence: Sequence, n: int) -> int:
        assert sequence.cache is not None
        return self._cache.pages_needed(sequence.cache, n)

    def _free_up(self, n_pages: int) -> bool:
        """Whether so many pages are free, letting go of known ones where they are not."""
        short = n_pages - self._cache.n_free_pages
        if short > 0 and self.prefixes.n_evictable() >= short:
            self.prefixes.evict(short)
        return n_pages <= self._cache.n_free_pages

    def _room(self, sequence: Sequence, n: int, reserved: int) -> int:
        """Pages that n more tokens take, pausing the latest sequences for them, at last this one itself."""
        while sequence.cache is not None:
            needed = self._needed(sequence, n)
            if self._free_up(reserved + needed):
                return needed
            self._pause(self.running[-1])
        return 0

    def _pause(self, sequence: Sequence) -> None:
        """Back to the front of its tenant's line: it goes on where it was, computing its tokens again."""
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.push_front(sequence)
        self.n_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        assert sequence.cache is not None
        self._cache.free(sequence.cache)
        sequence.cache, sequence.node, sequence.n_indexed = None, ROOT, 0


def _length(runs: list[range]) -> int:
    return runs[-1].stop - runs[0].start if runs else 0
