"""The table of a plan: each number format with its memory, how it would run, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.quant import FORMATS, find_format
from octuor.tools.convert import choose_formats
from octuor.tools.memory_use import MemoryUse, memory_use
from octuor.tools.plan.rates import LayerRate, Rates
from octuor.weights import weight_shapes

How = Literal["resident", "streamed", "does not fit"]
LEAST_EXPERTS = 2  # layers' worth of chosen experts in memory at the least: those at work, and those being read


@dataclass(frozen=True)
class Limits:
    """What there is: bytes of memory, tokens of context and sequences at once that the cache has to hold."""

    memory: int
    context: int
    batch: int = 1
    cache_dtype: str = "f16"


@dataclass(frozen=True)
class Choice:
    """One row.

    name        a number format, or how the checkpoint is stored
    use         bytes when all is in memory
    resident    share of the experts that the memory has room for, 1: all
    prompt      predicted tokens/s of a prompt of 512; None: not measured
    answer      of all answers together; None: not measured
    disk_bytes  what a file takes
    """

    name: str
    bits: float
    use: MemoryUse
    how: How
    resident: float
    prompt: float | None
    answer: float | None
    disk_bytes: int


def check_limits(config: ModelConfig, limits: Limits) -> None:
    """Raise RequestError where there is no such context or batch."""
    if not 1 <= limits.context <= config.max_seq_len:
        raise RequestError(
            f"--context: expected 1 to the {config.max_seq_len} tokens the model was made for, found {limits.context}"
        )
    if limits.batch < 1:
        raise RequestError(f"--batch: expected at least 1, found {limits.batch}")


def format_choices(config: ModelConfig, limits: Limits, rates: Rates) -> list[Choice]:
    """A row for each format that Octuor writes, most bits first."""
    rows = []
    for name in FORMATS:
        formats, shapes = choose_formats(config, name, {}), dict(weight_shapes(config))
        sizes = {weight: formats[weight].n_bytes(shape) for weight, shape in shapes.items()}
        rows.append(_choice(name, config, sizes, limits, _rate(name, rates), rates))
    return rows


def stored_choice(config: ModelConfig, formats: Mapping[str, int], limits: Limits, rates: Rates) -> Choice:
    """A row for weights as a checkpoint has them; speeds are those of the format with most bytes."""
    total, full = sum(formats.values()), config.n_params
    main = max(formats, key=lambda name: formats[name])
    experts = config.n_layers * config.n_experts * config.expert_params / full
    sizes = {"layers.0.experts.0.gate": int(total * experts), "rest": total - int(total * experts)}
    return _choice(main, config, sizes, limits, _rate(main, rates), rates)


def _rate(name: str, rates: Rates) -> LayerRate | None:
    """A format's own rate; for a plain one that was not measured, another plain one's by its bytes."""
    if name in rates.layers or name not in FORMATS:
        return rates.layers.get(name)
    row = find_format(name)
    like = next((other for other in rates.layers if not find_format(other).is_tiled), None)
    if row.is_tiled or like is None:
        return None
    known, scale = rates.layers[like], row.bits / find_format(like).bits
    return LayerRate(known.answer_s * scale, known.prompt_s, known.head_s * scale)


def _choice(
    name: str, config: ModelConfig, sizes: Mapping[str, int], limits: Limits, rate: LayerRate | None, rates: Rates
) -> Choice:
    total = sum(sizes.values())
    experts = sum(size for weight, size in sizes.items() if ".experts." in weight)
    use = memory_use(config, total, limits.context, batch=limits.batch, cache_dtype=limits.cache_dtype)
    met = experts * config.n_experts_per_token // config.n_experts  # by one token, in all layers
    least = use.total - experts + LEAST_EXPERTS * met // config.n_layers
    how: How = "resident" if use.total <= limits.memory else "streamed" if least <= limits.memory else "does not fit"
    if how == "streamed" and config.is_dense:
        how = "does not fit"
    resident = 1.0 if how == "resident" else max(limits.memory - (use.total - experts), 0) / experts
    prompt = answer = None
    if rate is not None and how != "does not fit":
        missing = (1 - resident) * experts
        disk = rates.disk.read_gb_per_s * 1e9 if rates.disk is not None and rates.disk.read_gb_per_s else None
        if not missing or disk is not None:
            prompt = _prompt_rate(config, rate, missing, disk)
            answer = _answer_rate(config, rate, met, missing / experts if experts else 0, limits, rates, disk)
    return Choice(name, 8 * total / config.n_params, use, how, resident, prompt, answer, total)


def _prompt_rate(config: ModelConfig, rate: LayerRate, missing: float, disk: float | None, tokens: int = 512) -> float:
    """Each expert that is not in memory is read once, while others are at work."""
    computing = tokens * rate.prompt_s * config.n_layers + rate.head_s
    return tokens / max(computing, missing / disk if disk else 0.0)


def _answer_rate(
    config: ModelConfig, rate: LayerRate, met: int, absent: float, limits: Limits, rates: Rates, disk: float | None
) -> float:
    """A batch meets more experts than one token does, each once; keys and values are read along."""
    n, a, batch = config.n_experts, config.n_experts_per_token, limits.batch
    distinct = n * (1 - (1 - a / n) ** batch) / a  # experts met, in units of those that one token meets
    cache = memory_use(config, 0, limits.context, batch=batch, cache_dtype=limits.cache_dtype).cache / 2  # on average
    reading = config.n_layers * rate.answer_s * distinct + cache / (rates.read_gb_per_s * 1e9)
    computing = batch * config.n_layers * rate.prompt_s if batch > 1 else 0.0
    streaming = absent * met * distinct / disk if disk else 0.0
    return batch / (max(reading, computing) + rate.head_s + streaming)
