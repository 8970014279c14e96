"""Log-likelihoods of many continuations at once; what texts have in common at their beginning is computed once.

Texts are sorted, so that those which begin alike stand together, and laid out as a forest (forest.py): a question is a
trunk, its answers are branches, and the examples before all questions are the trunk's own trunk. The forest is computed
level by level, each level in passes of whole chunks, over the paged cache, whose sequences share pages where they fork.

A log-likelihood is the same, to the last bit, as if its text had been computed alone in one call: a text is only ever
cut where at least two tokens lie on either side (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor import model as forward_pass
from octuor.api import Model
from octuor.batch import step
from octuor.cache import PAGE_SIZE, KVCache, SequenceCache
from octuor.engine.room import cache_room
from octuor.errors import RequestError
from octuor.evaluate.forest import Segment, Text, levels, shared, windows
from octuor.generate import check_ids

Ids = tuple[int, ...]
WINDOW_TOKENS = 8192  # of keys and values beside the longest text: enough for some passes
ROWS = 256  # tokens whose logits are at work at once


@dataclass(frozen=True)
class Continuation:
    """What is scored: `ids` after `context`, which has at least one token. Both are taken as they are."""

    context: Ids
    ids: Ids


@dataclass(frozen=True)
class Score:
    """Of one continuation.

    logprob    sum of its tokens' log-probabilities, nats
    is_greedy  whether each token is the likeliest one
    """

    logprob: float
    is_greedy: bool


@dataclass
class _Sums:
    """What is known so far of one text's tokens."""

    logprob: float = 0.0
    is_greedy: bool = True


class Scorer:
    """Scores continuations under one model. Holds its cache between calls.

    cache_dtype  "f16" or "f32" keys and values
    """

    def __init__(self, model: Model, cache_dtype: str = "f16") -> None:
        self._model = model
        self._dtype = cache_dtype
        self._cache: KVCache | None = None
        self._kept: tuple[Ids, SequenceCache] | None = None  # the last text of the window before
        self._keeps = False
        self.n_tokens = 0  # that went through the model
        self.n_given = 0  # that would have without sharing

    def scores(self, items: Sequence[Continuation]) -> Iterator[tuple[int, Score]]:
        """Each item's place and score, in the order in which they are ready.

        Raises RequestError where an id is not the model's, or a text is longer than its context.
        """
        unique: dict[Continuation, list[int]] = {}
        for at, item in enumerate(items):
            unique.setdefault(item, []).append(at)
        texts = sorted((_text(item) for item in unique), key=lambda text: text.inputs)
        if not texts:
            return
        for text in texts:
            check_ids(text.ids, self._model.config.vocab_size)
        longest = max(len(text.inputs) for text in texts)
        if longest > self._model.context:
            raise RequestError(f"text: expected at most the context of {self._model.context} tokens, found {longest}")
        cache = self._room(longest)
        n_kept = -(-longest // cache.page_size) + 1
        self._keeps = cache.window is None and cache.n_pages >= 2 * (n_kept + 3)
        for window in windows(texts, cache.n_pages - (n_kept if self._keeps else 0), cache.page_size):
            for text, sums in self._window(cache, window):
                score = Score(sums.logprob, sums.is_greedy)
                for at in unique[Continuation(text.ids[: text.start], text.ids[text.start :])]:
                    yield at, score
        self._forget(cache)

    def score(self, items: Sequence[Continuation]) -> list[Score]:
        """The scores in the order of the items."""
        found = dict(self.scores(items))
        return [found[at] for at in range(len(items))]

    def release(self) -> None:
        """Give the cache's memory back until the next call."""
        self._cache = None

    def _room(self, longest: int) -> KVCache:
        """A cache for the longest text, and as memory allows for one kept from the window before, and a window."""
        model = self._model
        needed = longest + 4 * PAGE_SIZE
        wanted = min(2 * needed + WINDOW_TOKENS, max(needed, cache_room(model, 32, self._dtype)))
        if self._cache is None or self._cache.n_pages * self._cache.page_size < wanted:
            self._cache = KVCache(model.config, model.ops.zeros, wanted, dtype=self._dtype)
        return self._cache

    def _window(self, cache: KVCache, texts: Sequence[Text]) -> list[tuple[Text, _Sums]]:
        sums = {text: _Sums() for text in texts}
        held: dict[Segment, SequenceCache] = {}
        last: SequenceCache | None = None
        for level in levels(texts):
            work = []
            for segment in level:
                parent = segment.parent
                sequence = self._begin(cache, segment) if parent is None else cache.fork(held[parent])
                held[segment] = sequence
                work.append((segment, sequence))
                self.n_tokens += segment.stop - sequence.length
            for parent in {segment.parent for segment in level if segment.parent is not None}:
                cache.free(held.pop(parent))
            self._compute(cache, work, sums)
            for segment in [segment for segment in held if segment.is_leaf]:
                if segment.texts[-1] is texts[-1]:
                    last = held.pop(segment)
                else:
                    cache.free(held.pop(segment))
        self.n_given += sum(len(text.inputs) for text in texts)
        self._forget(cache)
        if last is not None and self._keeps:
            self._kept = (texts[-1].inputs, last)
        elif last is not None:
            cache.free(last)
        return list(sums.items())

    def _begin(self, cache: KVCache, segment: Segment) -> SequenceCache:
        """A sequence that holds what the segment has in common with the last text before."""
        if self._kept is None:
            return cache.new()
        ids, kept = self._kept
        n = min(shared(ids, segment.texts[0].inputs[: segment.stop]), segment.first_wanted, segment.stop - 2)
        if n < 2:  # nothing, or a piece of one token
            return cache.new()
        sequence = cache.fork(kept)
        cache.truncate(sequence, n)
        return sequence

    def _forget(self, cache: KVCache) -> None:
        if self._kept is not None:
            cache.free(self._kept[1])
            self._kept = None

    def _compute(self, cache: KVCache, work: Sequence[tuple[Segment, SequenceCache]], sums: dict[Text, _Sums]) -> None:
        """All segments of a level, in passes of the model's chunk."""
        room = self._model.chunk
        entries: list[tuple[Segment, SequenceCache, range]] = []
        left = room
        for segment, sequence in work:
            at = sequence.length
            while at < segment.stop:
                n = min(segment.stop - at, left)
                if segment.stop - at - n == 1:
                    n -= 1
                if n < min(2, segment.stop - at):
                    self._pass(cache, entries, sums)
                    entries, left = [], room
                    continue
                entries.append((segment, sequence, range(at, at + n)))
                at, left = at + n, left - n
        self._pass(cache, entries, sums)

    def _pass(
        self, cache: KVCache, entries: Sequence[tuple[Segment, SequenceCache, range]], sums: dict[Text, _Sums]
    ) -> None:
        """One forward pass; what it foretells goes into sums."""
        if not entries:
            return
        model = self._model
        rows: list[int] = []
        wanted: list[tuple[Segment, int]] = []
        start = 0
        for segment, _, part in entries:
            first = max(part.start, segment.first_wanted)
            rows += range(start + first - part.start, start + len(part)) if first < part.stop else ()
            wanted += [(segment, position) for position in range(first, part.stop)]
            start += len(part)
        work = [(sequence, segment.texts[0].inputs[part.start : part.stop]) for segment, sequence, part in entries]
        batch = step(cache, work)
        kept = np.asarray(rows or [start - 1], dtype=np.int32)  # a pass needs a row, wanted or not
        hidden = forward_pass.forward(model.ops, model.weights, model.config, batch, rows=kept)
        for at in range(0, len(wanted), ROWS):
            logits = model.ops.to_numpy(forward_pass.logits(model.ops, model.weights, hidden[at : at + ROWS]))
            _add(logits, wanted[at : at + ROWS], sums)


def _text(item: Continuation) -> Text:
    return Text((*item.context, *item.ids), len(item.context))


def _add(logits: NDArray[np.float32], wanted: Sequence[tuple[Segment, int]], sums: dict[Text, _Sums]) -> None:
    """Add each row's part to the texts that go on from it. logits: [R, V]."""
    highest = logits.max(axis=1)
    best = logits.argmax(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64))
    for row, (segment, position) in enumerate(wanted):
        for text in segment.texts:
            if text.start - 1 <= position < len(text.inputs):
                token, found = text.ids[position + 1], sums[text]
                found.logprob += float(logits[row, token]) - float(highest[row]) - float(total[row])
                found.is_greedy &= int(best[row]) == token
