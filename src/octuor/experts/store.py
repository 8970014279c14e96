"""The pool of experts: those that are in memory, who has to leave for another, and what is read ahead.

One lock guards all of it. Readers fill memory and say when they are done; every decision is made by the threads that
run the model, and by readers only to begin the next read ahead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.errors import CheckpointError
from octuor.experts.arena import Arena
from octuor.experts.layout import Image
from octuor.experts.policy import Usage
from octuor.experts.reader import Job, Reader
from octuor.weights import Expert, StreamedExperts

AHEAD = 2  # experts on their way that nobody waits for yet: the disk has work while the next one is chosen
LIKELY = 0.9  # chance of being used in this pass from which on an expert is read ahead

OnFill = Callable[[int, int], None]  # bytes read, and in all


@dataclass(eq=False)
class Slot:
    """An expert and its range of the arena.

    room       bytes of memory that it takes
    pins       passes that are using it or wait for it
    job        what reads it; None: it is not being read
    has_memory whether its range has memory, filled or not
    is_ready   whether its range holds the expert
    kept       bytes of memory that it had from others before it was read
    error      why it could not be read for those who wait for it
    """

    layer: int
    number: int
    image: Image
    begin: int
    room: int
    pins: int = 0
    job: Job | None = None
    has_memory: bool = False
    is_ready: bool = False
    kept: int = 0
    error: CheckpointError | None = None


@dataclass
class StoreStats:
    """Since the start, but for the last three.

    hits       choices of experts, one for each expert of a pass, that found it in memory
    misses     that did not, in_flight of them on its way already
    read_bytes from disk, and wait_s for it
    held       experts in memory, by layer
    """

    hits: int
    misses: int
    in_flight: int
    read_bytes: int
    wait_s: float
    held: tuple[int, ...]
    pool_bytes: int
    limit_bytes: int


class Store:
    """Experts of all layers under a limit of memory.

    images   of each layer's experts
    limit    bytes for the pool now: called with the tokens of a pass as it begins, and with the pool's bytes that are
             surely in memory; at least the largest expert's are used whatever it says
    """

    def __init__(
        self, images: Sequence[Sequence[Image]], arena: Arena, reader: Reader, usage: Usage,
        limit: Callable[[int, int], int],
    ) -> None:  # fmt: skip
        begins = iter(arena.begins)
        self._slots = [
            [Slot(n, e, image, next(begins), arena.room(image.n_bytes)) for e, image in enumerate(row)]
            for n, row in enumerate(images)
        ]
        self._all = [slot for row in self._slots for slot in row]
        self._arena, self._reader, self._usage, self._ask_limit = arena, reader, usage, limit
        self._least = max(slot.room for slot in self._all)
        self._changed = threading.Condition()
        self._limit = self._held = self._touched = 0
        self._layer, self._n_tokens = len(images) - 1, 1  # where the pass is; before the first: all is ahead
        self._wishes: deque[Slot] = deque()  # of this pass, to be read ahead
        self._fill: deque[Slot] = deque()  # to be read where memory is free
        self._on_fill: OnFill | None = None
        self._fill_bytes = 0
        self._n_hungry = 0  # experts that somebody waits for and that have no memory yet
        self._hits = self._misses = self._in_flight = self._read_bytes = 0
        self._wait_s = 0.0

    # ---- passes ----------------------------------------------------------------------------------

    def fill(self, on_fill: OnFill | None = None) -> None:
        """Read experts in the order of a pass, in the background, until memory is full."""
        with self._changed:
            self._set_limit(1)
            room = self._limit
            for slot in self._all:
                if room >= slot.room:
                    room -= slot.room
                    self._fill.append(slot)
            self._on_fill, self._fill_bytes = on_fill, sum(slot.image.n_bytes for slot in self._fill)
            self._read_ahead()

    def visit(self, layer: int, chosen: NDArray[np.int32]) -> Generator[NDArray[np.int32], None, None]:
        """As StreamedExperts.visit, for one layer."""
        with self._changed:
            pending = [self._slots[layer][e] for e in np.unique(chosen)]
            pinned: list[Slot] = []
            self._usage.note(layer, chosen)
            if layer == 0 or layer <= self._layer:
                self._set_limit(len(chosen))
            self._layer, self._n_tokens = layer, len(chosen)
            self._hits += sum(slot.is_ready for slot in pending)
            self._misses += sum(not slot.is_ready for slot in pending)
            self._in_flight += sum(slot.job is not None for slot in pending)
            for slot in pending:
                if not slot.pins:
                    slot.error = None  # of those who waited before
                if slot.has_memory:
                    self._pin(slot, pinned)
            self._wish(layer, len(chosen))
        group: list[Slot] = []
        try:
            while pending:
                with self._changed:
                    self._unpin(group, pinned)
                    group = self._arrived(pending, pinned)
                    pending = [slot for slot in pending if slot not in group]
                yield np.array([slot.number for slot in group], dtype=np.int32)
        finally:
            with self._changed:
                self._unpin(pinned, pinned)
                self._read_ahead()

    def _arrived(self, pending: list[Slot], pinned: list[Slot]) -> list[Slot]:
        """Those that are ready, waiting until there is one; memory is given to those that have none."""
        while True:
            for slot in pending:
                if slot.error is None and (slot.has_memory or self._grant(slot, urgent=True)):
                    self._pin(slot, pinned)
            self._read_ahead()
            if group := [slot for slot in pending if slot.is_ready]:
                return group
            for slot in pending:
                if slot.error is not None:
                    error, slot.error = slot.error, None
                    raise error
            began = time.perf_counter()
            n_hungry = sum(not slot.has_memory for slot in pending)
            self._n_hungry += n_hungry
            try:
                self._changed.wait()
            finally:
                self._n_hungry -= n_hungry
            self._wait_s += time.perf_counter() - began

    def _pin(self, slot: Slot, pinned: list[Slot]) -> None:
        if slot not in pinned:
            slot.pins += 1
            pinned.append(slot)
            if slot.job is not None:
                self._reader.hurry(slot.job)

    def _unpin(self, group: list[Slot], pinned: list[Slot]) -> None:
        for slot in list(group):
            slot.pins -= 1
            pinned.remove(slot)
        self._changed.notify_all()

    # ---- memory ----------------------------------------------------------------------------------

    def _set_limit(self, n_tokens: int) -> None:
        coming = sum(max(0, slot.job.n_read - slot.kept) for slot in self._all if slot.job is not None)
        self._limit = max(self._least, self._ask_limit(n_tokens, self._touched + coming))
        for slot in self._leaving() if self._held > self._limit else ():
            if self._held <= self._limit:
                break
            self._drop(slot)
            self._arena.release(slot.begin, slot.room)
            self._touched -= slot.room

    def _leaving(self, *, passed: bool = False) -> list[Slot]:
        """Experts that may leave, the first to go first; passed: those alone that this pass has done with."""
        expected = self._usage.passes_to_use(self._layer, self._n_tokens)
        found = [slot for slot in self._all if slot.is_ready and not slot.pins]
        if passed:
            found = [slot for slot in found if slot.layer <= self._layer]
        return sorted(found, key=lambda slot: -expected[slot.layer, slot.number])

    def _grant(self, slot: Slot, *, urgent: bool) -> bool:
        """Give an expert memory, of others that leave if none is free, and have it read; False: there is none."""
        free, leaving = self._limit - self._held, []
        if free < slot.room:
            for other in self._leaving(passed=not urgent):
                leaving.append(other)
                free += other.room
                if free >= slot.room:
                    break
            else:
                return False
        kept = 0
        for other in leaving:
            n = min(other.room, slot.room - kept)
            n = n if self._arena.move(other.begin, slot.begin + kept, n) else 0
            self._arena.release(other.begin + n, other.room - n)
            self._touched -= other.room - n
            kept += n
            self._drop(other)
        self._held += slot.room
        slot.has_memory, slot.kept = True, kept
        memory = self._arena.bytes[slot.begin : slot.begin + slot.room]
        slot.job = Job(slot.image.segments, memory, lambda job: self._done(slot, job))
        self._reader.read(slot.job, urgent=urgent)
        return True

    def _drop(self, slot: Slot) -> None:
        slot.is_ready = slot.has_memory = False
        self._held -= slot.room

    def _done(self, slot: Slot, job: Job) -> None:
        """A reader has finished; in its thread."""
        with self._changed:
            slot.job = None
            self._touched += slot.room - slot.kept
            self._read_bytes += job.n_read
            if job.error is None:
                slot.is_ready = True
            else:
                slot.error = job.error if slot.pins else None  # nobody waits: it may go better when somebody does
                self._drop(slot)
                self._arena.release(slot.begin, slot.room)
                self._touched -= slot.room
                self._fill.clear()
            if self._on_fill is not None and job.error is None:
                self._on_fill(min(self._read_bytes, self._fill_bytes), self._fill_bytes)
                if self._read_bytes >= self._fill_bytes:
                    self._on_fill = None
            self._read_ahead()
            self._changed.notify_all()

    # ---- reading ahead ---------------------------------------------------------------------------

    def _wish(self, layer: int, n_tokens: int) -> None:
        """What later layers of this pass are all but sure to use. The last one may run for fewer tokens than this."""
        chances = self._usage.chances(n_tokens)
        self._wishes = deque(
            slot
            for row in self._slots[layer + 1 : -1]
            for slot in row
            if not slot.has_memory and chances[slot.layer, slot.number] >= LIKELY
        )

    def _read_ahead(self) -> None:
        if self._n_hungry:  # memory is for those who wait for it
            return
        n = sum(slot.job is not None and not slot.pins for slot in self._all)
        for wanted in (self._wishes, self._fill):
            while wanted and n < AHEAD:
                slot = wanted[0]
                if not slot.has_memory:
                    if wanted is self._fill and self._limit - self._held < slot.room:
                        wanted.clear()
                        break
                    if not self._grant(slot, urgent=False):
                        return
                    n += 1
                wanted.popleft()

    # ---- what is seen of it ----------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """How things stand."""
        with self._changed:
            held = tuple(sum(slot.is_ready for slot in row) for row in self._slots)
            return StoreStats(
                self._hits, self._misses, self._in_flight, self._read_bytes, self._wait_s, held, self._held, self._limit
            )

    def residency(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """[L, E] bool: the expert is in memory; [L, E] int64: the bytes that it takes there."""
        with self._changed:
            ready = [[slot.is_ready for slot in row] for row in self._slots]
        return np.array(ready), np.array([[slot.room for slot in row] for row in self._slots], np.int64)

    def is_held(self, layer: int, number: int) -> bool:
        """Whether a pass has the expert pinned and ready."""
        slot = self._slots[layer][number]
        return slot.is_ready and slot.pins > 0


class LayerExperts(StreamedExperts):
    """One layer's experts in a Store."""

    def __init__(self, store: Store, layer: int, experts: Sequence[Expert]) -> None:
        self._store, self._layer, self._experts = store, layer, experts

    def __len__(self) -> int:
        return len(self._experts)

    def __getitem__(self, number):  # type: ignore[no-untyped-def, override]
        assert self._store.is_held(self._layer, number), f"expert {number} of layer {self._layer} is not held"
        return self._experts[number]

    def visit(self, chosen: NDArray[np.int32]) -> Generator[NDArray[np.int32], None, None]:
        """As in StreamedExperts."""
        return self._store.visit(self._layer, chosen)
