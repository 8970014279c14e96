"""Toy models: random weights of any geometry as leaves of a backend, and every backend that needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from octuor import model
from octuor.batch import Batch, step, whole
from octuor.cache import KVCache, SequenceCache
from octuor.config import ModelConfig
from octuor.ops import Ops
from octuor.ops.native import NativeOps, implementations
from octuor.ops.reference import ReferenceOps
from octuor.quant import F32, Format
from octuor.weights import Weight, Weights, build, weight_shapes

F32Array = NDArray[np.float32]
Values = Mapping[str, F32Array]

NATIVE = tuple(f"native-{isa}" for isa in implementations())
BACKENDS = ("reference", *NATIVE)


def make_backend(name: str) -> Ops:
    """The backend of one of BACKENDS; native ones run on two threads."""
    if name == "reference":
        return ReferenceOps()
    return NativeOps(isa=name.removeprefix("native-"), threads=2)


def random_values(config: ModelConfig, seed: Sequence[int]) -> dict[str, F32Array]:
    """Float32 weights by canonical name, drawn so that no part of the model is idle.

    Rows of unit length keep activations of order 1. Queries and keys are larger, so that attention picks
    tokens instead of averaging them; norm weights differ from 1 and from each other.
    """
    rng = np.random.default_rng(list(seed))
    values = {}
    for name, shape in weight_shapes(config):
        part = name.rpartition(".")[2]
        if len(shape) == 1:
            values[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            continue
        gain = {"wq": 1.5, "wk": 1.5}.get(part, 1.0)
        scale = 1.0 if part == "embed" else gain / np.sqrt(shape[1])
        values[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
    return values


def leaves(values: Values, row: Format = F32) -> dict[str, Weight]:
    """Weights in a number format; vectors and routers stay f32, as convert keeps them."""
    found = {}
    for name, x in values.items():
        own = F32 if x.ndim == 1 or name.endswith("router") else row
        found[name] = Weight(own.quantize(x), x.shape, own, name)
    return found


def put_all(ops: Ops, config: ModelConfig, weights: Mapping[str, Weight]) -> Weights:
    """The tree that model.forward walks."""
    return build(config, lambda name: ops.put(weights[name]))


class Toy:
    """A backend with a model's weights, and the few ways in which tests run them."""

    def __init__(self, ops: Ops, config: ModelConfig, weights: Mapping[str, Weight]) -> None:
        self.ops, self.config = ops, config
        self.weights = put_all(ops, config, weights)

    def cache(self, n_tokens: int, *, dtype: str = "f32", page_size: int = 8) -> KVCache:
        """A cache of small pages, so that short sequences cross them."""
        return KVCache(self.config, self.ops.zeros, n_tokens, dtype=dtype, page_size=page_size)

    def logits(self, batch: Batch) -> F32Array:
        """Logits of every row of a batch, [T, V]."""
        hidden = model.forward(self.ops, self.weights, self.config, batch)
        return np.array(self.ops.to_numpy(model.logits(self.ops, self.weights, hidden)))

    def alone(self, tokens: Sequence[int]) -> F32Array:
        """Logits [T, V] of one sequence, whole and without a cache."""
        return self.logits(whole([tokens]))

    def extend(self, cache: KVCache, sequence: SequenceCache, tokens: Sequence[int]) -> F32Array:
        """Logits [T, V] of the next tokens of a cached sequence."""
        return self.logits(step(cache, [(sequence, tokens)]))

    def greedy(self, cache: KVCache, prompt: Sequence[int], n: int) -> list[int]:
        """The likeliest next token n times over, each read from the cache of those before."""
        sequence = cache.new()
        rows = self.extend(cache, sequence, prompt)
        tokens = []
        for _ in range(n):
            tokens.append(int(rows[-1].argmax()))
            rows = self.extend(cache, sequence, tokens[-1:])
        cache.free(sequence)
        return tokens


def relative_error(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest difference, relative to the largest expected magnitude; infinite where found is not finite."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if not np.isfinite(found).all():
        return float("inf")
    largest = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
    return difference / largest if largest else difference
