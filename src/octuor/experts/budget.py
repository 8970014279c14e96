"""What a limit of memory is divided into, and what to say where it is too little.

Everything but the experts is bounded before it is there: keys and values by the context, activations by the tokens of
a pass. What memory the process really has is looked at before each pass, so that the pool of experts gives way to
whatever else grows, and uses what nobody has taken yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from octuor.cache import PAGE_SIZE
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.machine import resident_bytes
from octuor.units import format_bytes

CHUNKS = (2048, 1024, 512, 256, 128, 64, 32)  # tokens of a prompt in a pass; a longer one reads experts less often
SHARE = 0.1  # of the limit that activations of a pass may take
HUGE_PAGE = 2 << 20
SPARE = 24 << 20  # what Python, tokenizers and the kernels' threads come to have beside what is counted here
PREFILL_CHUNK = 512  # of a model that is all in memory
LEAST_CONTEXT = 1024  # that is tried where nobody says how long it shall be
PASS = 1024  # tokens of which the kernels hold hidden states at once; native/kernels_moe.h


@dataclass(frozen=True)
class Shape:
    """What decides how much memory a pass takes. All in bytes but the config.

    cache_itemsize  of a key's or value's number
    is_tiled        whether all experts are in tiled formats, whose inputs the kernels keep as int8
    sizes           that each expert takes in memory
    """

    config: ModelConfig
    cache_itemsize: int
    is_tiled: bool
    sizes: tuple[int, ...]

    def activations(self, n_tokens: int) -> int:
        """An upper bound of what a pass takes beside weights, keys and values.

        Float32 rows between operations, the chosen experts' results, the kernels' inputs and hidden states with the
        quarter that they take in advance, and logits with what sampling makes of them.
        """
        c = self.config
        rows = 4 * c.dim + c.head_dim * (2 * c.n_heads + 3 * c.n_kv_heads) + c.n_experts_per_token * c.dim
        number = 1.4 if self.is_tiled else 6.4  # bytes of an input, as int8 with sums and scales, and as float32
        inputs = n_tokens * c.n_experts_per_token * c.dim * number
        hidden = min(n_tokens, PASS) * c.n_experts_per_token * c.hidden_dim * number
        return int(4 * n_tokens * rows + inputs + hidden + 12 * c.vocab_size * min(n_tokens, 64))

    def cache(self, n_tokens: int) -> int:
        """Keys and values of so many positions, in the pages that the system gives."""
        if self.config.sliding_window is not None:
            n_tokens = min(n_tokens, self.config.sliding_window + CHUNKS[0] + 2 * PAGE_SIZE)
        each = self._array(n_tokens)
        return 2 * self.config.n_layers * (-(-each // HUGE_PAGE) * HUGE_PAGE if each > HUGE_PAGE else each)

    def new_cache(self, n_tokens: int, context: int) -> int:
        """What keys and values may grow by in a pass of n_tokens."""
        page = HUGE_PAGE if self._array(context) > HUGE_PAGE else 0
        return 2 * self.config.n_layers * (self._array(n_tokens) + page)

    def _array(self, n_tokens: int) -> int:
        """One layer's keys."""
        return self.config.n_kv_heads * self.config.head_dim * self.cache_itemsize * (n_tokens + PAGE_SIZE)


@dataclass(frozen=True)
class Budget:
    """A limit of memory and what is sure to be taken from it.

    limit    bytes of the whole process
    fixed    bytes that it has, all weights outside the experts included
    context  tokens of prompt and answer
    chunk    tokens of a prompt in a pass
    """

    limit: int
    shape: Shape
    fixed: int
    context: int
    chunk: int

    @property
    def needed(self) -> int:
        """The least limit in bytes with which this context and chunk work."""
        activations = self.shape.activations(self.chunk)
        return self.fixed + SPARE + activations + self.shape.cache(self.context) + max(self.shape.sizes)

    @property
    def holds_all(self) -> bool:
        """Whether every expert has room beside a full context."""
        return self.needed + sum(self.shape.sizes) - max(self.shape.sizes) <= self.limit

    @property
    def cache_room(self) -> int:
        """Bytes that keys and values may take at the cost of all experts but the one that has to be there."""
        return self.limit - self.needed + self.shape.cache(self.context)

    def growth(self, n_tokens: int) -> int:
        """Bytes that a pass of so many tokens may come to take beside what was there before it."""
        return SPARE + self.shape.activations(n_tokens) + self.shape.new_cache(n_tokens, self.context)

    def pool(self, n_tokens: int, held: int) -> int:
        """Bytes for experts in a pass of so many tokens, where `held` of what the process has now are experts."""
        return self.limit - (resident_bytes() - held) - self.growth(n_tokens)


def make_budget(limit: int, shape: Shape, source: Path, context: int | None) -> Budget:
    """Divide a limit, as the process is now: with all weights outside the experts in memory.

    context  None: the model's own, or as much of it as there is room for

    Raises RequestError that says what is least and what to do, where it is too little.
    """
    fixed, wanted = resident_bytes(), context or shape.config.max_seq_len
    whole = Budget(limit, shape, fixed, wanted, min(wanted, PREFILL_CHUNK))
    if whole.holds_all:  # nothing will be read twice: longer passes gain nothing
        return whole
    contexts = (wanted,) if context is not None else _halves(wanted)
    chunks = [n for n in CHUNKS if shape.activations(n) <= SHARE * limit]
    for n in contexts:
        for chunk in chunks or CHUNKS[-1:]:
            budget = Budget(limit, shape, fixed, n, min(chunk, n))
            if budget.needed <= limit:
                return budget
    least = Budget(limit, shape, fixed, contexts[-1], min(CHUNKS[-1], contexts[-1]))
    if least.needed <= limit:
        return least
    advice = "make a smaller pack with `octuor pack --bits`"
    if context is not None and context > LEAST_CONTEXT:
        advice = f"ask for a smaller context, or {advice}"
    raise RequestError(
        f"memory: expected at least {format_bytes(least.needed)} for {source} with a context of {least.context}, "
        f"found a limit of {format_bytes(limit)}; allow that much, or {advice}"
    )


def _halves(n: int) -> list[int]:
    found = [n]
    while found[-1] >= 2 * LEAST_CONTEXT:
        found.append(found[-1] // 2)
    return found
