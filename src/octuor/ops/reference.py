"""The definition of every operation, in NumPy: short, slow, and what the kernels are tested against.

T tokens, S keys, D dim, H query heads, K kv heads, C head_dim, E experts, A experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octuor.batch import Batch
from octuor.ops import LayerRouting
from octuor.weights import Expert, Weight

F32Array = NDArray[np.float32]


def softmax(x: F32Array) -> F32Array:
    """Softmax over the last axis, in x's dtype."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def silu(x: F32Array) -> F32Array:
    """x * sigmoid(x)."""
    return np.asarray(x * (0.5 * (1 + np.tanh(0.5 * x))), dtype=np.float32)  # no overflow at large -x


class ReferenceOps:
    """The Ops of the definition. Leaves are Weights; they are widened to float32 at each use."""

    def put(self, weight: Weight) -> Weight:
        return weight

    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[np.floating]:
        return np.zeros(shape, dtype=np.float16 if dtype == "f16" else np.float32)

    def to_numpy(self, x: F32Array) -> F32Array:
        return x

    def embed(self, tokens: NDArray[np.int32], weight: Weight) -> F32Array:
        return weight.to_f32()[tokens]

    def rms_norm(self, x: F32Array, weight: Weight, eps: float) -> F32Array:
        mean_square = np.square(x).mean(axis=-1, keepdims=True)
        return np.asarray(x / np.sqrt(mean_square + np.float32(eps)) * weight.to_f32())

    def linear(self, x: F32Array, weight: Weight) -> F32Array:
        return x @ weight.to_f32().T

    def rope(self, x: F32Array, positions: NDArray[np.int32], theta: float) -> F32Array:
        half = x.shape[-1] // 2
        frequency = theta ** (-np.arange(half) / half)  # [C/2], float64: positions go to 65535
        angle = positions[:, None, None] * frequency  # [T, 1, C/2]
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attention(
        self, q: F32Array, k: F32Array, v: F32Array, batch: Batch, layer: int, window: int | None
    ) -> F32Array:
        if batch.cache is not None:
            pages, places = batch.slots
            batch.cache.keys[layer][pages, :, places] = k
            batch.cache.values[layer][pages, :, places] = v
        out = np.empty_like(q)
        for b in range(len(batch.starts) - 1):
            rows = slice(batch.starts[b], batch.starts[b + 1])
            if rows.start == rows.stop:
                continue
            positions = batch.positions[rows]
            first = 0 if window is None else max(0, int(positions[0]) - window + 1)
            if batch.cache is None:
                seen_k, seen_v = k[rows], v[rows]
            else:
                seen_k = self._cached(batch.cache.keys[layer], batch, b, first)
                seen_v = self._cached(batch.cache.values[layer], batch, b, first)
            out[rows] = _attend(q[rows], seen_k, seen_v, positions, first, window)
        return out

    @staticmethod
    def _cached(pool: NDArray[np.floating], batch: Batch, b: int, first: int) -> F32Array:
        """Keys or values of sequence b from position `first` on, [S, K, C]."""
        assert batch.cache is not None
        at = np.arange(first, batch.sequences[b].length)
        page_size = batch.cache.page_size
        return pool[batch.table[b, at // page_size], :, at % page_size].astype(np.float32)

    def route(self, x: F32Array, router: Weight | None, n_chosen: int) -> LayerRouting:
        if router is None:
            ones = np.ones((len(x), 1), dtype=np.float32)
            return LayerRouting(np.zeros((len(x), 1), dtype=np.int32), ones, np.zeros_like(ones))
        logits = self.linear(x, router)
        chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :n_chosen].astype(np.int32)
        return LayerRouting(chosen, softmax(np.take_along_axis(logits, chosen, axis=-1)), logits)

    def moe(self, x: F32Array, routing: LayerRouting, experts: Sequence[Expert]) -> F32Array:
        out = np.zeros_like(x)
        for e, expert in enumerate(experts):
            tokens, rank = np.nonzero(routing.experts == e)
            if len(tokens):
                hidden = silu(self.linear(x[tokens], expert.gate)) * self.linear(x[tokens], expert.up)
                out[tokens] += routing.weights[tokens, rank, None] * self.linear(hidden, expert.down)
        return out


def _attend(
    q: F32Array, k: F32Array, v: F32Array, positions: NDArray[np.int32], first: int, window: int | None
) -> F32Array:
    """One sequence: q [T, H, C] at `positions`, k and v [S, K, C] from position `first` on."""
    n_heads, head_dim = q.shape[1:]
    shared = n_heads // k.shape[1]
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)  # query head h reads kv head h // shared
    scores = np.einsum("thc,shc->hts", q, k) / np.float32(np.sqrt(head_dim))
    at = first + np.arange(len(k))
    hidden = at > positions[:, None]  # [T, S]
    if window is not None:
        hidden |= at <= positions[:, None] - window
    scores[:, hidden] = -np.inf
    return np.einsum("hts,shc->thc", softmax(scores), v)
