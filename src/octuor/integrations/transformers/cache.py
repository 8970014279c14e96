"""Our paged key/value cache as transformers handles one: B rows of one length, some of their columns padding.

Padding is never computed, so each row's sequence holds its real tokens only. Rows that share a past share its pages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache

from octuor.api import Model
from octuor.cache import SequenceCache
from octuor.errors import RequestError


class SequencesCache(Cache):
    """The keys and values of B rows; made for a model, filled by its forward.

    pool       the pages of all rows; it grows as they do
    sequences  [B] what each row holds
    mask       [B, columns] bool, which columns are tokens
    """

    def __init__(self, model: Model) -> None:
        super().__init__(layers=[])
        self.pool = model.new_cache(0)
        self.sequences: list[SequenceCache] = []
        self.mask: NDArray[np.bool_] = np.zeros((0, 0), dtype=bool)

    def begin(self, n_rows: int) -> None:
        """Make n_rows empty rows where there are none yet; RequestError where there are others."""
        if not self.sequences:
            self.sequences = [self.pool.new() for _ in range(n_rows)]
            self.mask = np.zeros((n_rows, 0), dtype=bool)
        if len(self.sequences) != n_rows:
            raise RequestError(f"past_key_values: expected {n_rows} rows, found {len(self.sequences)}")

    def extend(self, mask: NDArray[np.bool_]) -> None:
        """Note the columns [B, n] whose tokens the sequences now hold."""
        self.mask = np.concatenate([self.mask, mask], axis=1)

    def make_room(self, n_tokens: int) -> None:
        """Let the pool hold n_tokens more in each row, whatever pages they share."""
        spare = self.pool.page_size  # a shared last page's copy
        missing = len(self.sequences) * (n_tokens + 2 * spare) - self.pool.n_free_tokens
        if missing > 0:
            self.pool.grow(max(missing, self.pool.n_pages * self.pool.page_size))

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Columns so far, padding among them; of all layers alike."""
        return self.mask.shape[1]

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row b goes on from what row beam_idx[b] holds."""
        self._choose(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self._choose(np.arange(len(self.sequences))[indices.cpu().numpy()].tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        self._choose([row for row in range(len(self.sequences)) for _ in range(repeats)])

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last columns away: 0 or a negative number of them, as transformers has it."""
        if tokens_to_remove > 0:
            raise RequestError(f"crop: expected 0 or a negative number of columns to remove, found {tokens_to_remove}")
        self.mask = self.mask[:, : max(0, self.mask.shape[1] + tokens_to_remove)]
        for sequence, mask in zip(self.sequences, self.mask, strict=True):
            self.pool.truncate(sequence, int(mask.sum()))

    def reset(self) -> None:
        """As new."""
        for sequence in self.sequences:
            self.pool.free(sequence)
        self.sequences, self.mask = [], np.zeros((0, 0), dtype=bool)

    def activate_past_recording(self) -> None:
        """What was appended can always be cropped again."""

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` works: always."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Whether torch.compile could see through it: never."""
        return False

    def _choose(self, rows: Sequence[int]) -> None:
        before = self.sequences
        self.sequences = [self.pool.fork(before[row]) for row in rows]
        self.mask = self.mask[list(rows)]
        for sequence in before:
            self.pool.free(sequence)


def shared_rows(tokens: Sequence[NDArray[np.int32]], cache: SequencesCache) -> list[int]:
    """For each row the first one that holds and gets the same: where nothing is held yet, equal rows run once."""
    if cache.get_seq_length():
        return list(range(len(tokens)))
    first: dict[bytes, int] = {}
    return [first.setdefault(row.tobytes(), number) for number, row in enumerate(tokens)]
