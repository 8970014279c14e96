"""Which pages of the cache hold the beginning of what: so that a prompt's known beginning is not computed again.

A page is known by its tokens, by how each was computed and with which adapter, and by the page before it: a tree,
whose root is the empty beginning. Only full pages are kept. They are held beyond the sequences that made them and let
go, those unused for longest first, when room is wanted. Knows page numbers and token ids; no arrays, no requests.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from octuor.cache import KVCache

ROOT = 0


def page_key(ids: Sequence[int], alone: bytes | bytearray, adapter: int = 0) -> bytes:
    """What a page's tokens are, which were computed alone (sequence.py), and with which adapter's changes."""
    return array("i", (*ids, adapter)).tobytes() + bytes(alone)


class PrefixIndex:
    """The tree of known pages over one cache."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._children: dict[tuple[int, bytes], int] = {}
        self._nodes: OrderedDict[int, tuple[int, bytes, int]] = OrderedDict()  # node: parent, key, page; oldest first
        self._next = ROOT + 1

    def __len__(self) -> int:
        return len(self._nodes)

    def match(self, keys: Sequence[bytes]) -> tuple[list[int], int]:
        """Pages of the longest known beginning of these page keys, and the node of its last (ROOT: none)."""
        node, path = ROOT, []
        for key in keys:
            child = self._children.get((node, key))
            if child is None:
                break
            node = child
            path.append(child)
        self._touch(path)
        return [self._nodes[found][2] for found in path], node

    def insert(self, parent: int, key: bytes, page: int) -> int:
        """Keep a full page that follows `parent`; its node. Where such a page is known already, that one stays."""
        known = self._children.get((parent, key))
        if known is not None:
            return known
        node, self._next = self._next, self._next + 1
        self._children[parent, key] = node
        self._nodes[node] = (parent, key, page)
        self._cache.hold(page)
        return node

    def n_evictable(self) -> int:
        """Pages that nobody but the index holds."""
        return sum(1 for _, _, page in self._nodes.values() if self._cache.uses(page) == 1)

    def evict(self, n: int) -> int:
        """Free up to n pages that nobody else holds, unused for longest first; how many it were."""
        idle = (node for node, (_, _, page) in self._nodes.items() if self._cache.uses(page) == 1)
        chosen = [node for node, _ in zip(idle, range(n), strict=False)]
        for node in chosen:
            parent, key, page = self._nodes.pop(node)
            del self._children[parent, key]
            self._cache.drop(page)
        return len(chosen)

    def clear(self) -> None:
        """Let go of every page."""
        for _, _, page in self._nodes.values():
            self._cache.drop(page)
        self._nodes.clear()
        self._children.clear()

    def _touch(self, path: Sequence[int]) -> None:
        """Last pages first, so that a beginning is never older than what follows it."""
        for node in reversed(path):
            self._nodes.move_to_end(node)
