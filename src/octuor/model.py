"""The forward pass of Mixtral and Mistral, top to bottom, over the Ops of any backend.

T tokens of all sequences on one flat axis, D dim, H query heads, K kv heads, C head_dim, V vocab_size.
Only attention knows where one sequence ends and the next begins; only a leaf knows how it is stored.

Source: Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088; Jiang et al. 2023, Mistral 7B, arXiv:2310.06825.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octuor.batch import Batch
from octuor.config import ModelConfig
from octuor.ops import Array, LayerRouting, Ops
from octuor.weights import Layer, Weights

OnRoute = Callable[[int, LayerRouting], None]


def forward(
    ops: Ops,
    weights: Weights,
    config: ModelConfig,
    batch: Batch,
    on_route: OnRoute | None = None,
    rows: NDArray[np.int32] | None = None,
    routed: NDArray[np.int32] | None = None,
) -> Array:
    """Run the layers and the final norm.

    on_route  called with each layer's number and LayerRouting: how training balances and how routing is watched
    rows      [R] the tokens whose hidden states are wanted, None: all; the last layer's experts run for these only
    routed    [N] the tokens that on_route hears of in the last layer, rising, all of rows among them; None: rows
    returns   [R, D] float32 hidden states, in the order of rows
    """
    x = ops.embed(batch.tokens, weights.embed)  # [T, D]
    for n, layer in enumerate(weights.layers):
        attended = attention(ops, layer, config, ops.rms_norm(x, layer.attention_norm, config.norm_eps), batch, n)
        kept = None
        if rows is not None and n == config.n_layers - 1:  # its keys and values are in the cache by now
            seen = rows if routed is None else routed
            x, attended = x[seen], attended[seen]
            kept = None if routed is None else np.searchsorted(routed, rows)
        x = x + ops.linear(attended, layer.wo)
        x = feed_forward(ops, layer, config, x, n, on_route, kept)
    return ops.rms_norm(x, weights.norm, config.norm_eps)


def attention(ops: Ops, layer: Layer, config: ModelConfig, x: Array, batch: Batch, n: int) -> Array:
    """Grouped-query attention with rotary positions, up to wo: [T, D] -> [T, H * C]."""
    n_tokens = x.shape[0]
    q = ops.linear(x, layer.wq).reshape(n_tokens, config.n_heads, config.head_dim)  # [T, H, C]
    k = ops.linear(x, layer.wk).reshape(n_tokens, config.n_kv_heads, config.head_dim)  # [T, K, C]
    v = ops.linear(x, layer.wv).reshape(n_tokens, config.n_kv_heads, config.head_dim)  # [T, K, C]
    q = ops.rope(q, batch.positions, config.rope_theta)
    k = ops.rope(k, batch.positions, config.rope_theta)
    mixed = ops.attention(q, k, v, batch, n, config.sliding_window)  # [T, H, C]
    return mixed.reshape(n_tokens, config.n_heads * config.head_dim)


def feed_forward(
    ops: Ops,
    layer: Layer,
    config: ModelConfig,
    x: Array,
    n: int,
    on_route: OnRoute | None,
    kept: NDArray[np.intp] | None,
) -> Array:
    """x plus the chosen experts' weighted sum: [T, D] -> [T, D]. A dense layer is one expert for all.

    kept  the tokens that go on, None: all; on_route hears of the others, too, but no expert runs for them
    """
    normed = ops.rms_norm(x, layer.moe_norm, config.norm_eps)
    routing = ops.route(normed, layer.router, config.n_experts_per_token)
    if on_route is not None:
        on_route(n, routing)
    if kept is not None:
        x, normed, routing = x[kept], normed[kept], LayerRouting(*(part[kept] for part in routing))
    return x + ops.moe(normed, routing, layer.experts)


def logits(ops: Ops, weights: Weights, hidden: Array) -> Array:
    """Next-token logits of the given rows of hidden states: [T, D] -> [T, V] float32."""
    return ops.linear(hidden, weights.lm_head)
