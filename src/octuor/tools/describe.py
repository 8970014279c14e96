"""What a checkpoint is made of, part by part, and what is unusual about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from octuor.checkpoint import Checkpoint
from octuor.config import ModelConfig
from octuor.ops.native import runs_in_place
from octuor.units import format_bytes
from octuor.weights import Weight

PARTS = {
    "embed": "embedding",
    "attention_norm": "norms",
    "moe_norm": "norms",
    "norm": "norms",
    "wq": "attention q, o",
    "wo": "attention q, o",
    "wk": "attention k, v",
    "wv": "attention k, v",
    "router": "router",
    "gate": "experts gate, up",
    "up": "experts gate, up",
    "down": "experts down",
    "lm_head": "lm_head",
}
LEAST_ATTENTION_BITS = 4  # below, answers fall apart: HQQ's authors lost ten points of MMLU at two bits


@dataclass
class Part:
    """One kind of weight.

    formats  number format -> weights in it
    """

    name: str
    n_weights: int
    n_bytes: int
    formats: dict[str, int]

    @property
    def bits(self) -> float:
        """Bits a weight, scales and all."""
        return 8 * self.n_bytes / self.n_weights


def describe(checkpoint: Checkpoint) -> list[Part]:
    """The parts of a model in the order of PARTS; headers are enough."""
    found: dict[str, Part] = {}
    for name in checkpoint.names:
        weight = checkpoint.get(name)
        label = PARTS[name.rpartition(".")[2]]
        part = found.setdefault(label, Part(label, 0, 0, {}))
        count = prod(weight.shape)
        part.n_weights += count
        part.n_bytes += weight.nbytes
        part.formats[weight.format.name] = part.formats.get(weight.format.name, 0) + count
    return [found[label] for label in dict.fromkeys(PARTS.values()) if label in found]


def oddities(checkpoint: Checkpoint) -> list[str]:
    """What somebody who knows Mixtral's checkpoints would want to be told, a sentence each; none for a usual one."""
    config = checkpoint.config
    parts = {part.name: part for part in describe(checkpoint)}
    said = list(checkpoint.notes)
    if checkpoint.tokenizer is None:
        said.append("there is no tokenizer: it takes and gives token ids only")
    if not config.is_dense and config.sliding_window is not None:
        said.append(f"a sliding window of {config.sliding_window}: Mixtral was made without one")
    if not config.is_dense and set(parts["router"].formats) - {"f32", "f16", "bf16"}:
        said.append("its router is quantized: experts may be chosen wrongly")
    for label in ("attention q, o", "attention k, v"):
        if parts[label].bits < LEAST_ATTENTION_BITS:
            said.append(f"{label} has {parts[label].bits:.2f} bits: below {LEAST_ATTENTION_BITS} answers suffer most")
    if _is_shared(checkpoint.get("embed"), checkpoint.get("lm_head")):
        said.append("lm_head is the embedding, twice the same numbers")
    return said + _mixed(parts, config) + _widened(checkpoint)


def _is_shared(a: Weight, b: Weight) -> bool:
    return a.data.ctypes.data == b.data.ctypes.data and a.shape == b.shape


def _mixed(parts: Mapping[str, Part], config: ModelConfig) -> list[str]:
    """Experts in several formats are a budget's doing, or a mixture of files'."""
    names = [label for label in ("experts gate, up", "experts down") if len(parts[label].formats) > 1]
    whose = "its experts" if not config.is_dense else "its feed-forward layers"
    return [f"{whose} are in several formats ({', '.join(names)})"] if names else []


def _widened(checkpoint: Checkpoint) -> list[str]:
    """What the kernels cannot read as it lies costs memory of its own, 2 bytes a weight or 4."""
    weights = [weight for weight in map(checkpoint.get, checkpoint.names) if len(weight.shape) == 2]
    others = [weight for weight in weights if not runs_in_place(weight.format)]
    if not others:
        return []
    names = ", ".join(sorted({weight.format.name for weight in others}))
    n_bytes = 2 * sum(prod(weight.shape) for weight in others)
    return [f"no kernels read {names}: loaded as 16 or 32 bits, {format_bytes(n_bytes)} or more of memory"]
