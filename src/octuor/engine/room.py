"""How much memory keys and values may take, where nobody says."""

from __future__ import annotations

from octuor.api import Model
from octuor.generate import cache_tokens
from octuor.machine import available_bytes

SHARE = 0.5  # of what is left beside the weights
LEAST_TOKENS = 1024


def token_bytes(model: Model, dtype: str) -> int:
    """Bytes of keys and values of one position in all layers."""
    config = model.config
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * (2 if dtype == "f16" else 4)


def cache_room(model: Model, max_batch: int, dtype: str) -> int:
    """Positions of keys and values in all: what max_batch whole contexts take, or half of the memory that is left.

    Weights count in full, for mapped ones are to stay in memory; under a limit those outside experts do. Pages that
    nobody has used yet take none, and leave room for experts.
    """
    left = available_bytes() - model.checkpoint.n_bytes if model.budget is None else model.budget.cache_room
    affordable = int(SHARE * left / token_bytes(model, dtype))
    least = LEAST_TOKENS if model.budget is None else model.context
    return max(least, min(affordable, max_batch * cache_tokens(model.config, model.context)))
