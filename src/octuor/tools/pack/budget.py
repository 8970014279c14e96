"""From a budget to every matrix's format: which choices there are, what they take, and what to say where none fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.quant import F32, Format, find_format, find_in_packs
from octuor.tools.memory_use import memory_use
from octuor.tools.pack.allocate import Allocation, Choice, allocate
from octuor.tools.pack.rounding import Errors
from octuor.units import format_bytes
from octuor.weights import weight_shapes

# Attention stays at 4 bits or more: 8x7B loses ten points of MMLU with it at 2 bits and the experts at 4, and measures
# of one matrix at a time do not see all of that. embed and lm_head need no floor: what they cost is measured whole.
LEAST, LEAST_ATTENTION = "q2", "q4"
ATTENTION = ("wq", "wk", "wv", "wo")
# Losses of q8 and more are smaller than what they are measured with: where q8 for all fits, nothing goes below it.
PRECISE = "q8"


@dataclass(frozen=True)
class Budget:
    """Bytes that the quantized matrices may take, and the option that said so."""

    n_bytes: int
    label: str


@dataclass(frozen=True)
class Plan:
    """What to write.

    formats     canonical name -> format, of every weight
    losses      canonical name -> nats a token that its format is expected to cost
    allocation  of the matrices, with how far from the optimum it may be
    label       the budget in words
    n_weights   in quantized matrices
    """

    formats: Mapping[str, Format]
    losses: Mapping[str, float]
    allocation: Allocation
    label: str
    n_weights: int

    @property
    def bits(self) -> float:
        """Mean bits of a quantized weight, padding of edge tiles counted."""
        return 8 * self.allocation.n_bytes / self.n_weights


def quantized(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the matrices that are quantized: all but norms and routers."""
    return {name: shape for name, shape in weight_shapes(config) if len(shape) == 2 and not name.endswith(".router")}


def plain_bytes(config: ModelConfig) -> int:
    """Bytes of what stays float32."""
    matrices = quantized(config)
    return sum(F32.n_bytes(shape) for name, shape in weight_shapes(config) if name not in matrices)


def least_bytes(config: ModelConfig) -> int:
    """Bytes of the quantized matrices in the smallest formats that are allowed."""
    return sum(
        find_format(LEAST_ATTENTION if name.rpartition(".")[2] in ATTENTION else LEAST).n_bytes(shape)
        for name, shape in quantized(config).items()
    )


def bits_budget(config: ModelConfig, bits: float) -> Budget:
    """Mean bits over all quantized weights. RequestError if there is no such pack."""
    n_weights = sum(map(prod, quantized(config).values()))
    least = 8 * least_bytes(config) / n_weights
    if not least <= bits <= 32:
        raise RequestError(
            f"bits: expected at least {_up(least, 3)} for this model (attention in {LEAST_ATTENTION}, all else in "
            f"{LEAST}) and at most 32, found {bits:g}; choose more, or a smaller model"
        )
    return Budget(int(bits * n_weights / 8), f"{bits:g} bits")


def memory_budget(config: ModelConfig, memory: int, context: int, batch: int = 1, cache_dtype: str = "f16") -> Budget:
    """What is left for matrices of a machine's memory, in bytes, while `batch` answers of `context` tokens run.

    Raises RequestError where even the smallest formats do not fit: the least that does, and how to need less.
    """
    if not 1 <= context <= config.max_seq_len:
        raise RequestError(
            f"context: expected 1 to the {config.max_seq_len} tokens the model was made for, found {context}"
        )
    others = memory_use(config, plain_bytes(config), context, batch, cache_dtype)
    left, least = memory - others.total, least_bytes(config)
    if left < least:
        short = _shorter(config, memory, least, batch, cache_dtype)
        advice = f"a context of {short} fits" if short else "pack with --bits and stream experts when it runs"
        raise RequestError(
            f"memory: expected at least {_gib(others.total + least)} for this model with a context of {context} "
            f"(weights {format_bytes(least + others.weights)} at {_up(8 * least / _n_weights(config), 2)} bits, cache "
            f"{format_bytes(others.cache)}, the rest {format_bytes(others.scratch + others.base)}), found "
            f"{_gib(memory)}; {advice}"
        )
    return Budget(left, f"{_gib(memory)} of memory with a context of {context}")


def choose(config: ModelConfig, losses: Mapping[str, Errors], budget: Budget) -> Plan:
    """The formats of least loss within the budget.

    losses  canonical name -> format -> loss, for every quantized matrix in the formats that may be its
    """
    shapes = quantized(config)
    names = list(shapes)
    options = [[find_in_packs(name) for name in losses[matrix]] for matrix in names]
    precise = find_format(PRECISE)
    if sum(precise.n_bytes(shape) for shape in shapes.values()) <= budget.n_bytes:
        options = [[row for row in rows if row.bits >= precise.bits] or rows for rows in options]
    items = [
        [Choice(row.n_bytes(shapes[matrix]), losses[matrix][row.name]) for row in rows]
        for matrix, rows in zip(names, options, strict=True)
    ]
    found = allocate(items, budget.n_bytes)
    chosen = {matrix: rows[pick] for matrix, rows, pick in zip(names, options, found.picks, strict=True)}
    formats = {name: chosen.get(name, F32) for name, _ in weight_shapes(config)}
    spent = {name: losses[name][row.name] for name, row in chosen.items()}
    return Plan(formats, spent, found, budget.label, _n_weights(config))


def _n_weights(config: ModelConfig) -> int:
    return sum(map(prod, quantized(config).values()))


def _shorter(config: ModelConfig, memory: int, least: int, batch: int, cache_dtype: str) -> int | None:
    """The longest context, of powers of two, with which the smallest pack fits; None: not even 512."""
    context = 1 << (config.max_seq_len.bit_length() - 1)
    while context >= 512:
        if memory_use(config, plain_bytes(config) + least, context, batch, cache_dtype).total <= memory:
            return context
        context //= 2
    return None


def _gib(n_bytes: int) -> str:
    return f"{_up(n_bytes / (1 << 30), 2)} GiB" if n_bytes >= 1 << 30 else f"{_up(n_bytes / (1 << 20), 1)} MiB"


def _up(x: float, digits: int) -> str:
    """Rounded so that what is asked for, typed as it is printed, is enough."""
    return f"{-(-x * 10**digits // 1) / 10**digits:.{digits}f}"
