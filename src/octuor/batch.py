"""The tokens of one forward pass: all sequences laid flat on one axis.

T tokens in this call, B sequences. A chat, a server's step and a training step differ only in their Batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from octuor.errors import CapacityError

if TYPE_CHECKING:
    from octuor.cache import KVCache, SequenceCache


@dataclass(frozen=True)
class Batch:
    """Which tokens run, where they stand, and whose they are.

    tokens     [T] int32     token ids, sequence after sequence
    positions  [T] int32     each token's place in its own sequence, from 0
    starts     [B + 1] int32 sequence b owns rows starts[b] to starts[b + 1]
    cache      where keys and values of earlier calls lie and those of this call go;
               None: every sequence is whole in this call (scoring, training)
    sequences  [B] one handle a sequence, when there is a cache

    Example: a 3-token prompt beside a sequence that decodes its 8th token:
        tokens [5 6 7 42]   positions [0 1 2 7]   starts [0 3 4]
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    starts: NDArray[np.int32]
    cache: KVCache | None = None
    sequences: tuple[SequenceCache, ...] = ()

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """The cache's page numbers of each sequence, [B, pages]; the same for all layers."""
        assert self.cache is not None
        return self.cache.table(self.sequences)

    @cached_property
    def slots(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Page number and place in the page of each token's own key and value, [T] and [T]."""
        assert self.cache is not None
        owner = np.repeat(np.arange(len(self.sequences)), np.diff(self.starts))
        page_size = self.cache.page_size
        return self.table[owner, self.positions // page_size], self.positions % page_size

    @property
    def last_rows(self) -> NDArray[np.int32]:
        """Row of each sequence's last token, [B]: the rows whose logits choose the next tokens."""
        return self.starts[1:] - 1


def whole(sequences: Sequence[Sequence[int] | NDArray[np.int32]]) -> Batch:
    """A batch of complete sequences without a cache, each starting at position 0."""
    lengths = [len(tokens) for tokens in sequences]
    return Batch(
        tokens=np.concatenate([np.asarray(tokens, dtype=np.int32) for tokens in sequences]),
        positions=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )


def step(cache: KVCache, work: Sequence[tuple[SequenceCache, Sequence[int]]]) -> Batch:
    """A batch that continues cached sequences, each with its next tokens.

    A sequence may stand in `work` several times: its entries follow one another, and each sees those before it. So
    tokens that were once decoded one by one are computed again in one call, as they were to the last bit.
    Room is taken in the cache here, so a cache that is full raises CapacityError before anything runs,
    and no sequence has grown.
    """
    added: dict[SequenceCache, int] = {}
    for sequence, new in work:
        added[sequence] = added.get(sequence, 0) + len(new)
    next_positions = {sequence: sequence.length for sequence in added}
    _take_room(cache, added)
    starts = [0]
    tokens: list[int] = []
    positions = []
    for sequence, new in work:
        first = next_positions[sequence]
        next_positions[sequence] += len(new)
        positions.append(np.arange(first, first + len(new), dtype=np.int32))
        tokens.extend(new)
        starts.append(len(tokens))
    return Batch(
        tokens=np.asarray(tokens, dtype=np.int32),
        positions=np.concatenate(positions),
        starts=np.asarray(starts, dtype=np.int32),
        cache=cache,
        sequences=tuple(sequence for sequence, _ in work),
    )


def alone_in_prompt(n: int, spoken: Sequence[range]) -> bytearray:
    """For each of n prompt tokens, 1 if it is computed alone: what the model said itself, and any single token."""
    alone = bytearray(n)
    for part in spoken:
        alone[part.start : part.stop] = b"\1" * len(part)
    for i in range(n):
        if not alone[i] and (i == 0 or alone[i - 1]) and (i + 1 == n or alone[i + 1]):
            alone[i] = 1
    return alone


def cut(alone: bytes | bytearray, start: int, limit: int) -> list[range]:
    """Up to `limit` tokens from `start` on, as the runs of one pass: single ones, and parts of at least two.

    A part never leaves one token of its run behind.
    """
    runs: list[range] = []
    at, left = start, limit
    while at < len(alone) and left > 0:
        if alone[at]:
            runs.append(range(at, at + 1))
            at, left = at + 1, left - 1
            continue
        end = alone.find(1, at)
        end = len(alone) if end < 0 else end
        n = min(end - at, left)
        if end - at - n == 1:
            n -= 1
        if n < 2:
            break
        runs.append(range(at, at + n))
        at, left = at + n, left - n
    return runs


def _take_room(cache: KVCache, added: dict[SequenceCache, int]) -> None:
    """Grow each sequence at once by all its tokens, so that a window lets go only of what the first does not see."""
    grown: list[SequenceCache] = []
    try:
        for sequence, n in added.items():
            cache.append(sequence, n)
            grown.append(sequence)
    except CapacityError:
        for sequence in grown:
            cache.truncate(sequence, sequence.length - added[sequence])
        raise
