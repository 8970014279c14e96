"""Known pages: found by what came before them, held while they are known, let go oldest first."""

from __future__ import annotations

import pytest

from octuor.cache import KVCache
from octuor.engine.prefix import ROOT, PrefixIndex
from octuor.ops.reference import ReferenceOps
from tiny_models import TINY


@pytest.fixture
def cache() -> KVCache:
    return KVCache(TINY, ReferenceOps().zeros, 8 * 4, dtype="f32", page_size=4)


def remember(index: PrefixIndex, cache: KVCache, *keys: bytes) -> list[int]:
    """A sequence computes these pages and ends; its pages."""
    sequence = cache.new()
    cache.append(sequence, len(keys) * cache.page_size)
    pages, node = list(sequence.pages), ROOT
    for key, page in zip(keys, pages, strict=True):
        node = index.insert(node, key, page)
    cache.free(sequence)
    return pages


def test_the_longest_known_beginning(cache: KVCache) -> None:
    index = PrefixIndex(cache)
    pages = remember(index, cache, b"a", b"b", b"c")
    assert index.match([b"a", b"b", b"c", b"d"])[0] == pages
    assert index.match([b"a", b"b", b"x"])[0] == pages[:2]
    assert index.match([b"b", b"c"]) == ([], ROOT)  # the same page after another beginning is another page


def test_branches_share_their_trunk(cache: KVCache) -> None:
    index = PrefixIndex(cache)
    trunk = remember(index, cache, b"a", b"b")
    other = remember(index, cache, b"a", b"x")
    assert index.match([b"a", b"x"])[0] == [trunk[0], other[1]]
    assert len(index) == 3
    assert cache.n_free_pages == 8 - 3  # the second "a" was not kept


def test_evicted_are_the_ends_of_what_was_unused_for_longest(cache: KVCache) -> None:
    index = PrefixIndex(cache)
    old = remember(index, cache, b"a", b"b")
    new = remember(index, cache, b"c", b"d")
    index.match([b"a", b"b"])
    assert index.evict(1) == 1
    assert index.match([b"c", b"d"])[0] == new[:1] or index.match([b"c", b"d"])[0] == []
    assert index.match([b"a", b"b"])[0] == old


def test_pages_in_use_are_not_evicted(cache: KVCache) -> None:
    index = PrefixIndex(cache)
    pages = remember(index, cache, b"a", b"b")
    sequence = cache.adopt(pages[:1])
    assert index.n_evictable() == 1
    assert index.evict(5) == 1
    assert index.match([b"a", b"b"])[0] == pages[:1]
    cache.free(sequence)
    index.clear()
    assert cache.n_free_pages == 8
