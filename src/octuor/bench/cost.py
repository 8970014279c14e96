"""What a forward pass has to read and to compute: bytes and operations, from the routing that took place.

K kv heads, C head_dim, H query heads. A multiplication with its addition is two operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octuor.config import ModelConfig

CACHE_BYTES = 2  # a key's or value's number in f16


@dataclass(frozen=True)
class Sizes:
    """Stored bytes of a model's weights, as a step meets them.

    layers   [n_layers] attention, norms and router
    experts  [n_layers][E] gate, up and down of each expert
    head     the last norm and lm_head
    embed    one row of it
    """

    layers: tuple[int, ...]
    experts: tuple[tuple[int, ...], ...]
    head: int
    embed: int
    total: int

    @classmethod
    def of(cls, config: ModelConfig, n_bytes: Mapping[str, int]) -> Sizes:
        """From the bytes of each weight by its canonical name."""
        layers = [0] * config.n_layers
        experts = [[0] * config.n_experts for _ in range(config.n_layers)]
        head = 0
        for name, size in n_bytes.items():
            at = name.split(".")
            if at[0] != "layers":
                head += 0 if name == "embed" else size
            elif at[2] == "experts":
                experts[int(at[1])][int(at[3])] += size
            else:
                layers[int(at[1])] += size
        embed = n_bytes["embed"] // config.vocab_size
        return cls(tuple(layers), tuple(map(tuple, experts)), head, embed, sum(n_bytes.values()))


@dataclass
class Cost:
    """Bytes read and operations done, added up over steps.

    loads  [n_layers, E] how often each expert was chosen
    """

    n_bytes: float
    n_ops: float
    loads: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def none(cls, config: ModelConfig) -> Cost:
        """Nothing yet."""
        return cls(0.0, 0.0, np.zeros((config.n_layers, config.n_experts), dtype=np.int64))

    def add_step(
        self,
        config: ModelConfig,
        sizes: Sizes,
        chosen: Sequence[Any],
        before: Sequence[int],
        n_new: int,
        n_logits: int,
    ) -> None:
        """Add one forward pass.

        chosen    [n_layers] the experts [T, A] that its tokens were routed to; in the last layer they run for the
                  n_logits last tokens only
        before    tokens that each sequence had in the cache
        n_new     tokens that each sequence adds
        n_logits  rows of logits that were computed
        """
        n_tokens = n_new * len(before)
        chosen = [*chosen[:-1], chosen[-1][-n_logits:]]
        self.n_bytes += sum(sizes.layers) + sizes.head + n_tokens * sizes.embed
        for n, experts in enumerate(chosen):
            counts = np.bincount(np.asarray(experts).reshape(-1), minlength=config.n_experts)
            self.loads[n] += counts
            self.n_bytes += sum(size for size, count in zip(sizes.experts[n], counts, strict=True) if count)
        position = 2 * config.n_layers * config.n_kv_heads * config.head_dim * CACHE_BYTES
        self.n_bytes += position * sum(_visible(config, start, n_new) for start in before)
        pairs = sum(_pairs(config, start, n_new) for start in before)
        self.n_ops += 4.0 * config.n_layers * config.n_heads * config.head_dim * pairs
        for experts in chosen:
            self.n_ops += 2.0 * n_tokens * _attention_params(config) + 2.0 * len(experts) * _expert_params(config)
        self.n_ops += 2.0 * n_logits * config.vocab_size * config.dim


def _attention_params(config: ModelConfig) -> int:
    """Weights of a layer's attention that one token meets in products."""
    return config.dim * config.head_dim * 2 * (config.n_heads + config.n_kv_heads)


def _expert_params(config: ModelConfig) -> int:
    """Weights of a layer's router and experts that one token meets in products."""
    router = 0 if config.is_dense else config.n_experts * config.dim
    return router + config.n_experts_per_token * config.expert_params


def _visible(config: ModelConfig, before: int, n_new: int) -> int:
    """Positions whose keys and values a step reads or writes, each once."""
    if config.sliding_window is None:
        return before + n_new
    return min(before, config.sliding_window - 1) + n_new


def _pairs(config: ModelConfig, before: int, n_new: int) -> int:
    """Pairs of a new token and a position that it sees."""
    seen = np.arange(before + 1, before + n_new + 1)
    return int(seen.sum() if config.sliding_window is None else np.minimum(seen, config.sliding_window).sum())
