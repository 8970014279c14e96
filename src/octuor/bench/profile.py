"""Where a forward pass spends its time: an Ops around the native ones that keeps the seconds of each operation.

Seconds are those inside kernels. What is left of a row's wall time is "outside": Python, NumPy and the bindings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.batch import Batch
from octuor.ops import Array, LayerRouting, Ops
from octuor.weights import Expert, Leaf, Weight, Weights

PARTS = ("embed", "norms", "linear", "rope", "attention", "route", "moe", "lm_head")


class TimedOps:
    """The Ops of another backend, with the seconds that each part of the forward pass takes.

    clock    seconds spent so far, such as those of NativeOps.kernel_seconds
    seconds  part -> seconds; "linear" is wq, wk, wv and wo
    """

    def __init__(self, ops: Ops, weights: Weights, clock: Callable[[], float]) -> None:
        self._ops, self._lm_head, self._clock = ops, weights.lm_head, clock
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def _timed(self, part: str, call: Callable[..., Any], *args: Any) -> Any:
        began = self._clock()
        result = call(*args)
        self.seconds[part] += self._clock() - began
        return result

    def put(self, weight: Weight) -> Leaf:
        return self._ops.put(weight)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        return self._ops.zeros(shape, dtype)

    def to_numpy(self, x: Array) -> NDArray[np.float32]:
        return self._ops.to_numpy(x)

    def embed(self, tokens: NDArray[np.int32], weight: Leaf) -> Array:
        return self._timed("embed", self._ops.embed, tokens, weight)

    def rms_norm(self, x: Array, weight: Leaf, eps: float) -> Array:
        return self._timed("norms", self._ops.rms_norm, x, weight, eps)

    def linear(self, x: Array, weight: Leaf) -> Array:
        return self._timed("lm_head" if weight is self._lm_head else "linear", self._ops.linear, x, weight)

    def rope(self, x: Array, positions: NDArray[np.int32], theta: float) -> Array:
        return self._timed("rope", self._ops.rope, x, positions, theta)

    def attention(self, q: Array, k: Array, v: Array, batch: Batch, layer: int, window: int | None) -> Array:
        return self._timed("attention", self._ops.attention, q, k, v, batch, layer, window)

    def route(self, x: Array, router: Leaf | None, n_chosen: int) -> LayerRouting:
        routing: LayerRouting = self._timed("route", self._ops.route, x, router, n_chosen)
        return routing

    def moe(self, x: Array, routing: LayerRouting, experts: Sequence[Expert]) -> Array:
        return self._timed("moe", self._ops.moe, x, routing, experts)
