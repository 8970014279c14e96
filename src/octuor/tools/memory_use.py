"""What running a model takes of memory: one sum, for `octuor plan` beforehand and `octuor pack --memory` within."""

from __future__ import annotations

from dataclasses import dataclass

from octuor.cache import PAGE_SIZE
from octuor.config import ModelConfig
from octuor.generate import PREFILL_CHUNK, cache_tokens
from octuor.quant.base import ceil_div

# The interpreter with NumPy, the kernels, a tokenizer and the command line: 40 to 50 MB resident on Linux x86-64.
BASE_BYTES = 64 << 20
CACHE_BYTES = {"f16": 2, "f32": 4}  # of one number


@dataclass(frozen=True)
class MemoryUse:
    """Bytes, all resident at once when a context is full.

    weights  as they are stored; read through a mapping, they are the page cache's, and must fit all the same
    cache    keys and values
    scratch  activations of the largest forward pass
    base     the program itself
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
    config: ModelConfig, weight_bytes: int, context: int, batch: int = 1, cache_dtype: str = "f16"
) -> MemoryUse:
    """What `batch` answers of `context` tokens each take together with weights of weight_bytes.

    cache_dtype  "f16" or "f32"
    """
    return MemoryUse(
        weight_bytes, batch * cache_bytes(config, context, cache_dtype), scratch_bytes(config, batch), BASE_BYTES
    )


def cache_bytes(config: ModelConfig, context: int, cache_dtype: str = "f16") -> int:
    """Bytes of one sequence's keys and values, in whole pages; a sliding window keeps its own length."""
    tokens = ceil_div(cache_tokens(config, context), PAGE_SIZE) * PAGE_SIZE
    return 2 * tokens * config.n_layers * config.n_kv_heads * config.head_dim * CACHE_BYTES[cache_dtype]


def scratch_bytes(config: ModelConfig, batch: int = 1) -> int:
    """Bytes of activations while a prompt is read beside `batch` answers.

    For each token of a chunk: the residual stream, its norm and the layer's result; queries, keys and values before and
    after rotation; the inputs of its experts' products, in int8 with scales. One row of logits for each answer. An
    upper estimate: 8x7B's layers take 43 MB for 512 tokens, of the 72 MB counted here.
    """
    tokens = max(PREFILL_CHUNK, batch)
    heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    floats = 3 * config.dim + 2 * heads
    int8 = config.n_experts_per_token * (config.dim + config.hidden_dim) * 9 // 8
    return tokens * (4 * floats + int8) + 4 * batch * config.vocab_size
