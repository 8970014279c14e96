"""The operations a forward pass is made of; each backend is one object that has them all.

T tokens, D dim, H query heads, K kv heads, C head_dim, E experts, A experts a token, F hidden_dim.
Arrays are the backend's own kind, float32 (torch in training: the parameters' dtype between
operations that are defined in float32). reference.py is the definition of every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from octuor.batch import Batch
from octuor.weights import Expert, Leaf, Weight

Array = Any  # numpy.ndarray or torch.Tensor


class LayerRouting(NamedTuple):
    """Which experts play each token, and how loud."""

    experts: Array  # [T, A] int, best first; ties go to the lower index
    weights: Array  # [T, A] float32, softmax over the chosen logits
    logits: Array  # [T, E] float32, of all experts


class Ops(Protocol):
    """What model.py needs of a backend."""

    def put(self, weight: Weight) -> Leaf:
        """Make a checkpoint's weight this backend's own leaf, without a copy where it can be."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array of zeros, dtype "f16" or "f32"; memory is taken as it is written."""

    def to_numpy(self, x: Array) -> NDArray[np.float32]:
        """x as a float32 array in main memory."""

    def embed(self, tokens: NDArray[np.int32], weight: Leaf) -> Array:
        """Rows of weight [V, D] for tokens [T]: [T, D] float32."""

    def rms_norm(self, x: Array, weight: Leaf, eps: float) -> Array:
        """Scale each row of x [T, D] to unit root-mean-square (eps inside the root), then by weight [D]."""

    def linear(self, x: Array, weight: Leaf) -> Array:
        """x [T, in] times weight [out, in] transposed: [T, out]."""

    def rope(self, x: Array, positions: NDArray[np.int32], theta: float) -> Array:
        """Rotate the pairs (i, i + C/2) of x [T, heads, C] by positions * theta^(-2i/C)."""

    def attention(self, q: Array, k: Array, v: Array, batch: Batch, layer: int, window: int | None) -> Array:
        """Causal softmax attention, scaled by 1/sqrt(C): q [T, H, C], k and v [T, K, C] -> [T, H, C].

        With a cache, k and v are first written to it, and each token sees all of its sequence up to
        itself; without one, what this call holds of it. A window limits that to the last `window`.
        """

    def route(self, x: Array, router: Leaf | None, n_chosen: int) -> LayerRouting:
        """Choose n_chosen experts for each row of x [T, D]; router None: expert 0 with weight 1."""

    def moe(self, x: Array, routing: LayerRouting, experts: Sequence[Expert]) -> Array:
        """Sum over each token's experts of weight * down(silu(gate x) * up x): [T, D]."""
