"""The paged key/value cache: append, truncate, fork; a rolling window where the model has one.

K kv heads, C head_dim, P tokens a page. Each layer has one array of keys and one of values,
[n_pages, K, P, C], and page p is the same page of every layer, so a sequence is one short list of
page numbers. Forked sequences share pages; a shared page is copied when one of them writes to it.
With a sliding window, pages that no later token can see go back to the pool: memory stays constant.
What attends over the pages is the backend's business.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octuor.config import ModelConfig
from octuor.errors import CapacityError, RequestError

PAGE_SIZE = 32  # tokens: 8 KiB of f16 keys a head at head_dim 128, a few pages a task and little waste


class Zeros(Protocol):
    """Makes a backend's array of zeros; pages never written should cost no memory."""

    def __call__(self, shape: tuple[int, ...], dtype: str) -> Any: ...


class SequenceCache:
    """What one sequence holds in a KVCache: its length and its page numbers. Made by KVCache.new."""

    def __init__(self) -> None:
        self.length = 0  # tokens appended and not cut back
        self.n_released = 0  # leading pages that the sliding window has let go
        self.pages: list[int] = []  # page number of each P positions; stale in the first n_released


class KVCache:
    """Keys and values of many sequences in a fixed pool of pages.

    n_tokens  positions the pool holds, rounded up to whole pages
    dtype     "f16" or "f32"
    """

    def __init__(
        self, config: ModelConfig, zeros: Zeros, n_tokens: int, *, dtype: str = "f16", page_size: int = PAGE_SIZE
    ) -> None:
        if dtype not in ("f16", "f32"):
            raise RequestError(f"cache dtype: expected f16 or f32, found {dtype!r}")
        self.page_size = page_size
        self._zeros, self._dtype = zeros, dtype
        self.window = config.sliding_window
        self.n_pages = -(-n_tokens // page_size)
        shape = (self.n_pages, config.n_kv_heads, page_size, config.head_dim)
        self.keys = [zeros(shape, dtype) for _ in range(config.n_layers)]
        self.values = [zeros(shape, dtype) for _ in range(config.n_layers)]
        self._uses = [0] * self.n_pages
        self._free = list(range(self.n_pages - 1, -1, -1))

    @property
    def n_free_tokens(self) -> int:
        """Positions in pages that nobody holds."""
        return len(self._free) * self.page_size

    @property
    def n_free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def new(self) -> SequenceCache:
        """A sequence that holds nothing yet."""
        return SequenceCache()

    def grow(self, n_tokens: int) -> None:
        """Make room for n_tokens more, rounded up to whole pages; what is held is copied once."""
        first, self.n_pages = self.n_pages, self.n_pages + -(-n_tokens // self.page_size)
        for pools in (self.keys, self.values):
            for layer, old in enumerate(pools):
                pools[layer] = self._zeros((self.n_pages, *old.shape[1:]), self._dtype)
                pools[layer][:first] = old
        self._uses += [0] * (self.n_pages - first)
        self._free[:0] = range(self.n_pages - 1, first - 1, -1)

    def adopt(self, pages: list[int]) -> SequenceCache:
        """A sequence that begins with these full pages, which others may hold too."""
        sequence = SequenceCache()
        sequence.pages, sequence.length = list(pages), len(pages) * self.page_size
        for page in pages:
            self.hold(page)
        return sequence

    def hold(self, page: int) -> None:
        """Keep a page that is in use from being free before a `drop` more."""
        self._uses[page] += 1

    def drop(self, page: int) -> None:
        """Undo one `hold`; the page is free once nobody holds it."""
        self._uses[page] -= 1
        if self._uses[page] == 0:
            self._free.append(page)

    def uses(self, page: int) -> int:
        """How many sequences and holds keep the page."""
        return self._uses[page]

    def pages_needed(self, sequence: SequenceCache, n: int) -> int:
        """Free pages that `append` of n tokens takes, a shared last page's copy among them; a window may free more."""
        new_pages = -(-(sequence.length + n) // self.page_size) - len(sequence.pages)
        return new_pages + self._writes_shared_page(sequence, n)

    def append(self, sequence: SequenceCache, n: int) -> None:
        """Take room for the next n tokens; CapacityError, and nothing changed, where there is none.

        With a sliding window, pages wholly before what the first new token sees are let go.
        """
        kept = sequence.n_released
        if self.window is not None:
            kept = max(kept, (sequence.length - self.window + 1) // self.page_size)
        new_length = sequence.length + n
        shared_tail = self._writes_shared_page(sequence, n)
        wanted = -(-new_length // self.page_size) - len(sequence.pages)
        dropped = sequence.pages[sequence.n_released : kept]
        freed = sum(1 for page in dropped if self._uses[page] == 1)
        if wanted + shared_tail > len(self._free) + freed:
            raise CapacityError(
                f"key/value cache: expected room for {n} more tokens, found {self.n_free_tokens} of "
                f"{self.n_pages * self.page_size} free; use a larger context or end other sequences"
            )
        for page in dropped:
            self.drop(page)
        sequence.n_released = kept
        if shared_tail:
            self._copy_tail(sequence)
        sequence.pages.extend(self._take() for _ in range(wanted))
        sequence.length = new_length

    def truncate(self, sequence: SequenceCache, length: int) -> None:
        """Cut back to `length` tokens, as if later ones had never been there."""
        if not 0 <= length <= sequence.length:
            raise RequestError(f"truncate: expected a length in 0..{sequence.length}, found {length}")
        first_seen = 0 if self.window is None else max(0, length - self.window + 1)
        if first_seen < sequence.n_released * self.page_size and length > 0:
            raise CapacityError(
                f"truncate to {length}: the sliding window has let go of positions before "
                f"{sequence.n_released * self.page_size}; start the sequence again"
            )
        keep = max(-(-length // self.page_size), 0 if length == 0 else sequence.n_released)
        for page in sequence.pages[max(keep, sequence.n_released) :]:
            self.drop(page)
        del sequence.pages[keep:]
        sequence.n_released = min(sequence.n_released, keep)
        sequence.length = length

    def fork(self, sequence: SequenceCache) -> SequenceCache:
        """A second sequence with the same past; no keys or values are copied until one of them writes."""
        other = SequenceCache()
        other.length, other.n_released, other.pages = sequence.length, sequence.n_released, list(sequence.pages)
        for page in other.pages[other.n_released :]:
            self.hold(page)
        return other

    def free(self, sequence: SequenceCache) -> None:
        """Give back everything the sequence holds; it is then as new."""
        for page in sequence.pages[sequence.n_released :]:
            self.drop(page)
        sequence.length, sequence.n_released, sequence.pages = 0, 0, []

    def table(self, sequences: tuple[SequenceCache, ...]) -> NDArray[np.int32]:
        """Page numbers of each sequence, [B, most pages]; rows are padded, released entries stale."""
        width = max((len(sequence.pages) for sequence in sequences), default=0)
        table = np.zeros((len(sequences), width), dtype=np.int32)
        for row, sequence in zip(table, sequences, strict=True):
            row[: len(sequence.pages)] = sequence.pages
        return table

    def _writes_shared_page(self, sequence: SequenceCache, n: int) -> bool:
        if n == 0 or sequence.length % self.page_size == 0:
            return False
        return self._uses[sequence.pages[-1]] > 1

    def _copy_tail(self, sequence: SequenceCache) -> None:
        old, new = sequence.pages[-1], self._take()
        for pool in (*self.keys, *self.values):
            pool[new] = pool[old]
        self.drop(old)
        sequence.pages[-1] = new

    def _take(self) -> int:
        page = self._free.pop()
        self._uses[page] = 1
        return page
