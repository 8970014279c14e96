"""The tree of weights that model.py walks, and the leaf that checkpoints fill it with.

A reader yields Weight leaves; a backend turns each into its own kind with Ops.put. model.py sees only
the tree, so a new kind of leaf (quantized, streamed, adapted) never changes it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.config import ModelConfig
from octuor.errors import ShapeError
from octuor.quant.base import Storage

Leaf = Any  # a Weight, or what a backend's put made of it


@dataclass(frozen=True)
class Weight:
    """One matrix [out, in] or vector [n] as it is stored.

    data    the stored numbers, as format has them; often a view of a mapped file
    format  one of quant.IN_PACKS, or another program's storage
    name    its canonical name, for error messages
    parts   further arrays that the format keeps apart, such as scales; none in formats of ours

    Raises ShapeError where the arrays are not what the format asks for.
    """

    data: NDArray[Any]
    shape: tuple[int, ...]
    format: Storage
    name: str = ""
    parts: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = self.format.mismatch(self.data, self.parts, self.shape)
        if wrong is not None:
            raise ShapeError(f"{self.name or 'weight'}: {self.format.name} {list(self.shape)}: {wrong}")

    def rows(self, start: int, stop: int) -> Weight:
        """Rows start to stop, views where they can be; start is a multiple of format.row_multiple."""
        data, parts = self.format.rows(self.data, self.parts, start, stop)
        return Weight(data, (stop - start, *self.shape[1:]), self.format, self.name, parts)

    def to_f32(self) -> NDArray[np.float32]:
        """The weight's values as float32 of `shape`; a view where it is stored so."""
        return self.format.to_f32(self.data, self.parts, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes as it is stored."""
        return self.data.nbytes + sum(part.nbytes for part in self.parts.values())

    @property
    def bits(self) -> float:
        """Bits a number, all parts counted."""
        return 8 * self.nbytes / max(prod(self.shape), 1)


@dataclass(frozen=True)
class LowRank:
    """A change of one weight [out, in]: scale * b @ a, with a [r, in] and b [out, r] float32."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scale: float

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The change of rows start to stop, [stop - start, in] float32."""
        change: NDArray[np.float32] = (self.b[start:stop] @ self.a) * np.float32(self.scale)
        return change


@dataclass(frozen=True)
class Expert:
    """One feed-forward expert: down(silu(gate x) * up x)."""

    gate: Leaf  # [F, D]
    up: Leaf  # [F, D]
    down: Leaf  # [D, F]


class StreamedExperts(Sequence[Expert]):
    """The experts of a layer where memory need not hold all of them; only those that are held can be indexed."""

    @abstractmethod
    def visit(self, chosen: NDArray[np.int32]) -> Generator[NDArray[np.int32], None, None]:
        """Each expert in `chosen` [T, A] once, in groups: those in memory at once, others as they arrive.

        A group is held until the next is asked for or the generator is closed. Raises CheckpointError where a file
        cannot be read.
        """


@dataclass(frozen=True)
class Layer:
    """One transformer layer; router is None in a dense model."""

    attention_norm: Leaf  # [D]
    wq: Leaf  # [H*C, D]
    wk: Leaf  # [K*C, D]
    wv: Leaf  # [K*C, D]
    wo: Leaf  # [D, H*C]
    moe_norm: Leaf  # [D]
    router: Leaf | None  # [E, D]
    experts: Sequence[Expert]


@dataclass(frozen=True)
class Weights:
    """All weights of a model."""

    embed: Leaf  # [V, D]
    layers: Sequence[Layer]
    norm: Leaf  # [D]
    lm_head: Leaf  # [V, D]


def weight_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Canonical name and shape of every weight, in the order in which a forward pass meets them."""
    d, f, v = config.dim, config.hidden_dim, config.vocab_size
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield "embed", (v, d)
    for n in range(config.n_layers):
        yield f"layers.{n}.attention_norm", (d,)
        yield f"layers.{n}.wq", (q, d)
        yield f"layers.{n}.wk", (kv, d)
        yield f"layers.{n}.wv", (kv, d)
        yield f"layers.{n}.wo", (d, q)
        yield f"layers.{n}.moe_norm", (d,)
        if not config.is_dense:
            yield f"layers.{n}.router", (config.n_experts, d)
        for e in range(config.n_experts):
            yield f"layers.{n}.experts.{e}.gate", (f, d)
            yield f"layers.{n}.experts.{e}.up", (f, d)
            yield f"layers.{n}.experts.{e}.down", (d, f)
    yield "norm", (d,)
    yield "lm_head", (v, d)


def build(config: ModelConfig, get: Callable[[str], Leaf]) -> Weights:
    """Assemble the tree from canonical names; `get` is called once for each name of weight_shapes."""

    def layer(n: int) -> Layer:
        at = f"layers.{n}."
        experts = tuple(
            Expert(*(get(f"{at}experts.{e}.{part}") for part in ("gate", "up", "down")))
            for e in range(config.n_experts)
        )
        parts = {part: get(at + part) for part in ("attention_norm", "wq", "wk", "wv", "wo", "moe_norm")}
        return Layer(**parts, router=None if config.is_dense else get(at + "router"), experts=experts)

    return Weights(
        embed=get("embed"),
        layers=tuple(layer(n) for n in range(config.n_layers)),
        norm=get("norm"),
        lm_head=get("lm_head"),
    )
