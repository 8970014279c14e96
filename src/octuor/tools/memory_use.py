"""What running a model takes in memory: weights, key/value cache, activations, and the program itself."""

from __future__ import annotations

from dataclasses import dataclass

from octuor.config import ModelConfig
from octuor.generate import PREFILL_CHUNK, cache_tokens

CACHE_BYTES = {"f16": 2, "f32": 4}
BASE_BYTES = 110 << 20  # Python with NumPy, tokenizer and kernels, as they are after a first answer


@dataclass(frozen=True)
class MemoryUse:
    """Bytes.

    weights  as they are stored
    cache    keys and values of all sequences at full length
    scratch  activations of the largest step
    base     the program without a model
    """

    weights: int
    cache: int
    scratch: int
    base: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.scratch + self.base


def memory_use(
    config: ModelConfig, weight_bytes: int, context: int, *, batch: int = 1, cache_dtype: str = "f16"
) -> MemoryUse:
    """What `batch` sequences of up to `context` tokens each take."""
    cached = cache_tokens(config, context)
    cache = 2 * CACHE_BYTES[cache_dtype] * config.n_layers * config.n_kv_heads * config.head_dim * cached * batch
    return MemoryUse(weight_bytes, cache, scratch_bytes(config, max(PREFILL_CHUNK, batch), batch), BASE_BYTES)


def scratch_bytes(config: ModelConfig, n_tokens: int, n_logits: int = 1) -> int:
    """Activations of a step of n_tokens: a layer's at their widest, float32, and beside them the same rounded."""
    heads = (2 * config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    chosen = config.n_experts_per_token
    width = 4 * config.dim + heads + chosen * (config.dim + 2 * config.hidden_dim)
    return 5 * n_tokens * width + 8 * n_logits * config.vocab_size
