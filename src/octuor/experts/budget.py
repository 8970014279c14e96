"""What a limit of memory is divided into, and what to say where it is too little.

Everything but the experts is bounded before it is there: keys and values by the context, activations by the tokens of
a pass. What memory the process really has is looked at before each pass, so that the pool of experts gives way to
whatever else grows, and uses what nobody has taken yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from octuor.cache import PAGE_SIZE
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.machine import resident_bytes
from octuor.units import format_bytes

CHUNKS = (2048, 1024, 512, 256, 128, 64, 32)  # tokens of a prompt in a pass; a longer one reads experts less often
SHARE = 0.06  # of the limit that activations of a pass may take
HUGE_PAGE = 2 << 20
SPARE = 24 << 20  # what Python, tokenizers and the kernels' threads come to have beside what is counted here
PASS = 1024  # tokens of which the kernels hold hidden states at once; native/kernels_moe.h


@dataclass(frozen=True)
class Budget:
    """A limit of memory and what is sure to be taken from it, in bytes.

    limit    for the whole process
    fixed    of the process, with all weights outside the experts
    context  tokens of prompt and answer
    chunk    tokens of a prompt in a pass
    least    of the largest expert
    experts  of all experts
    """

    limit: int
    config: ModelConfig
    fixed: int
    context: int
    chunk: int
    cache_itemsize: int
    least: int
    experts: int

    @property
    def needed(self) -> int:
        """The least limit with which this context and chunk work."""
        return (
            self.fixed
            + self.growth(self.chunk)
            + cache_bytes(self.config, self.context, self.cache_itemsize)
            + self.least
        )

    def growth(self, n_tokens: int) -> int:
        """Bytes that a pass of so many tokens may come to take beside what was there before it."""
        return activation_bytes(self.config, n_tokens) + _new_pages(self.config, n_tokens, self.cache_itemsize) + SPARE

    def pool(self, n_tokens: int, held: int) -> int:
        """Bytes for experts in a pass of so many tokens, where `held` of what the process has now are experts."""
        return self.limit - (resident_bytes() - held) - self.growth(n_tokens)


def make_budget(
    limit: int, config: ModelConfig, sizes: Sequence[int], source: Path, *, context: int | None, cache_itemsize: int
) -> Budget:
    """Divide a limit; the weights outside the experts are in memory already.

    sizes    bytes that each expert takes in memory
    context  None: the model's own, or as much as there is room for

    Raises RequestError that says what is least and what to do, where it is too little.
    """
    fixed, experts, least = resident_bytes(), sum(sizes), max(sizes)
    fits = Budget(limit, config, fixed, context or config.max_seq_len, 512, cache_itemsize, least, experts)
    if fits.needed - least + experts <= limit:  # nothing will be read twice: longer passes gain nothing
        return fits
    chunks = [n for n in CHUNKS if activation_bytes(config, n) <= SHARE * limit] or [CHUNKS[-1]]
    wanted = context or config.max_seq_len
    for chunk in chunks:
        for n in (wanted,) if context is not None else _halves(wanted):
            budget = Budget(limit, config, fixed, n, min(chunk, n), cache_itemsize, least, experts)
            if budget.needed <= limit:
                return budget
    smallest = Budget(limit, config, fixed, wanted if context is not None else min(wanted, 1024), CHUNKS[-1],
                      cache_itemsize, least, experts)  # fmt: skip
    advice = "make a smaller pack with `octuor pack --bits`"
    if context is not None and context > 1024:
        advice = f"ask for a smaller --context, or {advice}"
    raise RequestError(
        f"memory: expected at least {format_bytes(smallest.needed)} for {source} with a context of {smallest.context}, "
        f"found a limit of {format_bytes(limit)}; allow that much, or {advice}"
    )


def activation_bytes(config: ModelConfig, n_tokens: int) -> int:
    """An upper bound of what a pass of so many tokens takes beside weights, keys and values.

    Float32 rows between operations, the chosen experts' results, and the kernels' inputs and hidden states, held as
    int8 and as float32 (for weights in plain formats), with a quarter that the kernels take in advance.
    """
    attention = config.head_dim * (3 * config.n_heads + 4 * config.n_kv_heads)
    rows = 8 * config.dim + attention + config.n_experts_per_token * config.dim
    inputs = config.n_experts_per_token * config.dim * 5 // 4
    hidden = config.n_experts_per_token * config.hidden_dim * 5 // 4
    logits = config.vocab_size * min(n_tokens, 64)
    return 4 * (n_tokens * rows + n_tokens * inputs + min(n_tokens, PASS) * hidden + 3 * logits)


def cache_bytes(config: ModelConfig, n_tokens: int, itemsize: int) -> int:
    """Bytes of keys and values of so many positions."""
    if config.sliding_window is not None:
        n_tokens = min(n_tokens, config.sliding_window + CHUNKS[0] + 2 * PAGE_SIZE)
    n_arrays = 2 * config.n_layers
    each = config.n_kv_heads * config.head_dim * itemsize * (n_tokens + PAGE_SIZE)
    return n_arrays * (-(-each // HUGE_PAGE) * HUGE_PAGE if each > 2 * HUGE_PAGE else each)


def _new_pages(config: ModelConfig, n_tokens: int, itemsize: int) -> int:
    """Bytes by which keys and values may grow in a pass: what it writes, in the pages that the system gives."""
    each = config.n_kv_heads * config.head_dim * itemsize * (n_tokens + PAGE_SIZE)
    return 2 * config.n_layers * (each + (HUGE_PAGE if config.max_seq_len * each // n_tokens > 2 * HUGE_PAGE else 0))


def _halves(n: int) -> list[int]:
    found = [n]
    while found[-1] > 1024:
        found.append(found[-1] // 2)
    return found
