"""Memory that running takes: the cache that is allocated, and sums that grow with what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from octuor.cache import KVCache
from octuor.config import MISTRAL_7B, MIXTRAL_8X7B, ModelConfig
from octuor.generate import cache_tokens
from octuor.tools.memory_use import memory_use

GIB = 1 << 30
WINDOWED = replace(MISTRAL_7B, sliding_window=4096)


@pytest.mark.parametrize("config", [MIXTRAL_8X7B, WINDOWED], ids=["8x7b", "window"])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("context", [1, 33, 5000, 32768])
def test_the_cache_is_what_an_answer_allocates(config: ModelConfig, dtype: str, context: int) -> None:
    small = replace(config, n_layers=2)  # zeros that are never touched
    cache = KVCache(
        small,
        lambda shape, kind: np.empty(shape, {"f16": np.float16, "f32": np.float32}[kind]),
        cache_tokens(small, context),
        dtype=dtype,
    )
    assert memory_use(small, 0, context, cache_dtype=dtype).cache == sum(x.nbytes for x in (*cache.keys, *cache.values))


def test_the_cache_of_mixtral_is_what_its_pages_say() -> None:
    assert memory_use(MIXTRAL_8X7B, 0, 32768).cache == 4 * GIB


def test_a_batch_has_a_cache_and_logits_for_each() -> None:
    one, eight = memory_use(MIXTRAL_8X7B, 7, 4096), memory_use(MIXTRAL_8X7B, 7, 4096, batch=8)
    assert eight.cache == 8 * one.cache
    assert eight.scratch - one.scratch == 7 * 4 * MIXTRAL_8X7B.vocab_size
    assert (eight.weights, eight.base) == (one.weights, one.base) == (7, one.base)
    assert eight.total == eight.weights + eight.cache + eight.scratch + eight.base
