"""Texts as a forest of segments: what several have in common at their beginning is one segment. Ids only, no arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

Ids = tuple[int, ...]
LEAST_SHARED = 8  # tokens that are worth a segment of their own


@dataclass(frozen=True, eq=False)
class Text:
    """Token ids, of which those from `start` on are scored; start is at least 1, and at most len(ids) - 1."""

    ids: Ids
    start: int

    @cached_property
    def inputs(self) -> Ids:
        """What goes through the model: the last token foretells nothing that is wanted."""
        return self.ids[:-1]


@dataclass(frozen=True, eq=False)
class Segment:
    """Positions that all of `texts` share, from where the parent stops up to `stop`.

    texts     in order; what they begin with is the same up to `stop`
    parent    None: it begins at position 0
    is_leaf   no segment follows
    """

    texts: tuple[Text, ...] = field(repr=False)
    stop: int
    parent: Segment | None
    is_leaf: bool

    @cached_property
    def first_wanted(self) -> int:
        """The first position whose next token is scored in any of the texts; it need not lie in this segment."""
        return min(text.start for text in self.texts) - 1


def shared(a: Ids, b: Ids) -> int:
    """How many ids both begin with."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def windows(texts: Sequence[Text], n_pages: int, page_size: int) -> Iterator[list[Text]]:
    """Cut sorted texts into groups whose segments fit into n_pages together; a longer text is a group of its own."""
    window: list[Text] = []
    used = 0
    for text in texts:
        n_known = shared(window[-1].inputs, text.inputs) if window else 0
        # a beginning too short for a segment is computed again, and a fork copies a page that is not full
        needed = -(-(len(text.inputs) - n_known + LEAST_SHARED + 2) // page_size) + 2
        if window and used + needed > n_pages:
            yield window
            window, used = [], 0
            needed = -(-len(text.inputs) // page_size) + 2
        window.append(text)
        used += needed
    if window:
        yield window


def levels(texts: Sequence[Text]) -> Iterator[list[Segment]]:
    """The forest of sorted texts: first all segments without a parent, then their children, and so on."""
    waiting: list[tuple[Segment | None, tuple[Text, ...]]] = [(None, tuple(texts))]
    while waiting:
        level: list[Segment] = []
        following: list[tuple[Segment | None, tuple[Text, ...]]] = []
        for parent, group in waiting:
            for segment, children in _split(parent, group):
                level.append(segment)
                following += [(segment, child) for child in children]
        yield level
        waiting = following


def _split(parent: Segment | None, group: tuple[Text, ...]) -> Iterator[tuple[Segment, list[tuple[Text, ...]]]]:
    """Segments that follow `parent` for these sorted texts, each with the groups that follow it."""
    start = 0 if parent is None else parent.stop
    first, last = group[0].inputs, group[-1].inputs
    if first == last:
        yield Segment(group, len(first), parent, is_leaf=True), []
        return
    common = shared(first, last)
    parts = _by_next(group, common)
    stop = _cut(group, common)
    if stop - start < LEAST_SHARED:
        for part in parts:
            yield from _split(parent, part)
        return
    yield Segment(group, stop, parent, is_leaf=False), [part for part in parts if len(part[0].inputs) > stop]


def _by_next(group: tuple[Text, ...], at: int) -> list[tuple[Text, ...]]:
    """Parts of a sorted group that have the same token at position `at`; those that end there are the first part."""
    parts: list[list[Text]] = []
    previous: int | None = None
    for text in group:
        token = text.inputs[at] if at < len(text.inputs) else None
        if not parts or token != previous:
            parts.append([])
        parts[-1].append(text)
        previous = token
    return [tuple(part) for part in parts]


def _cut(group: Sequence[Text], common: int) -> int:
    """The last place up to `common` that leaves no text a single token: none goes through the model alone."""
    ends = {len(text.inputs) for text in group}
    while common + 1 in ends:
        common -= 1
    return common
