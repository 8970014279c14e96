"""The operations once more, in float64 and as plainly as they can be said, and weights to try them on.

T tokens, D dim, H query heads, K kv heads, C head_dim, A experts a token, F hidden_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from octuor.ops import LayerRouting
from octuor.quant import FORMATS
from octuor.quant.int8_exact import quantize_activations
from octuor.weights import Expert, Weight

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]


def random(*shape: int, seed: int = 0) -> F32Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@cache
def stored(name: str, out: int, inputs: int, seed: int = 0) -> Weight:
    """A Gaussian weight in the format called `name`, results of order 1; made once for all backends, so read-only."""
    row = FORMATS[name]
    data = row.quantize(random(out, inputs, seed=seed) / np.float32(np.sqrt(inputs)))
    data.flags.writeable = False
    return Weight(data, (out, inputs), row)


def rounded(x: F32Array) -> F64Array:
    """x [T, in] as a product with a tiled weight sees it: int8 times a scale for each token and 256 inputs."""
    codes, scales = quantize_activations(x)
    blocks = codes.reshape(*scales.shape, 256).astype(np.float64) * scales[..., None]
    return blocks.reshape(codes.shape)[:, : x.shape[1]]


def linear(x: F32Array, weight: Weight) -> F64Array:
    """x [T, in] times weight [out, in] transposed, with the inputs rounded where kernels of the format round them."""
    return _inputs(x, weight) @ weight.to_f32().astype(np.float64).T


def moe(x: F32Array, routing: LayerRouting, experts: Sequence[Expert]) -> F64Array:
    """Token by token: the weighted sum of its experts' down(silu(gate x) * up x)."""
    plain = {e: _widened(experts[e]) for e in set(routing.experts.flat)}
    out = np.zeros(x.shape)
    for t in range(len(x)):
        for e, weight in zip(routing.experts[t], routing.weights[t], strict=True):
            expert, own = plain[e], experts[e]
            gate = _inputs(x[t : t + 1], own.gate) @ expert.gate.T
            up = _inputs(x[t : t + 1], own.up) @ expert.up.T
            hidden = (gate / (1 + np.exp(-gate)) * up).astype(np.float32)
            out[t] += weight * (_inputs(hidden, own.down) @ expert.down.T)[0]
    return out


def _inputs(x: F32Array, weight: Weight) -> F64Array:
    name = weight.format.name
    is_rounded = name.startswith("gguf-") or (name in FORMATS and FORMATS[name].is_tiled)
    return rounded(x) if is_rounded else x.astype(np.float64)


def _widened(expert: Expert) -> Expert:
    return Expert(*(part.to_f32().astype(np.float64) for part in (expert.gate, expert.up, expert.down)))


def rms_norm(x: F32Array, weight: F32Array, eps: float) -> F64Array:
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps) * weight


def rope(x: F32Array, positions: NDArray[np.int32], theta: float) -> F64Array:
    """Pairs (i, i + C/2) as complex numbers, turned."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:].astype(np.float64)) * np.exp(1j * angle)[:, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attention(q: F32Array, keys: F32Array, values: F32Array, positions: Sequence[int], window: int | None) -> F64Array:
    """One sequence, token by token and head by head: q [T, H, C]; keys and values [S, K, C] from position 0 on."""
    n_heads, head_dim = q.shape[1:]
    shared = n_heads // keys.shape[1]
    out = np.zeros(q.shape)
    for t, position in enumerate(positions):
        seen = slice(0 if window is None else max(0, position - window + 1), position + 1)
        for h in range(n_heads):
            scores = keys[seen, h // shared].astype(np.float64) @ q[t, h] / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            out[t, h] = weights / weights.sum() @ values[seen, h // shared]
    return out
