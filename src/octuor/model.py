"""The forward pass of Mixtral and Mistral, top to bottom, over the Ops of any backend.

T tokens of all sequences on one flat axis, D dim, H query heads, K kv heads, C head_dim, V vocab_size.
Only attention knows where one sequence ends and the next begins; only a leaf knows how it is stored.

Source: Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088; Jiang et al. 2023, Mistral 7B, arXiv:2310.06825.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from octuor.batch import Batch
from octuor.config import ModelConfig
from octuor.ops import Array, LayerRouting, Ops
from octuor.weights import Layer, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnRoute = Callable[[int, LayerRouting], None]


def forward(
    ops: Ops,
    weights: Weights,
    config: ModelConfig,
    batch: Batch,
    on_route: OnRoute | None = None,
    rows: NDArray[np.int32] | None = None,
) -> Array:
    """Run the layers and the final norm.

    on_route  called with each layer's number and LayerRouting: how training balances and how routing is watched
    rows      [R] the tokens whose hidden states are wanted, None: all; the last layer's experts run for these only
    returns   [R, D] float32 hidden states, in the order of rows
    """
    x = ops.embed(batch.tokens, weights.embed)  # [T, D]
    for n, layer in enumerate(weights.layers):
        x = block(ops, layer, config, x, batch, n, on_route, rows if n == config.n_layers - 1 else None)
    return ops.rms_norm(x, weights.norm, config.norm_eps)


def block(
    ops: Ops,
    layer: Layer,
    config: ModelConfig,
    x: Array,
    batch: Batch,
    n: int,
    on_route: OnRoute | None = None,
    rows: NDArray[np.int32] | None = None,
) -> Array:
    """Layer n: attention, then each token's experts, added up: [T, D] -> [T, D], or [R, D] where rows [R] go on.

    A dense layer is one expert for all.
    """
    mixed = attention(ops, layer, config, ops.rms_norm(x, layer.attention_norm, config.norm_eps), batch, n)
    if rows is not None and on_route is None:  # nobody asks for the others' routes
        x, mixed, rows = x[rows], mixed[rows], None
    x = x + ops.linear(mixed, layer.wo)
    normed = ops.rms_norm(x, layer.moe_norm, config.norm_eps)
    routing = ops.route(normed, layer.router, config.n_experts_per_token)
    if on_route is not None:
        on_route(n, routing)
    if rows is not None:
        x, normed, routing = x[rows], normed[rows], LayerRouting(*(part[rows] for part in routing))
    return x + ops.moe(normed, routing, layer.experts)


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


def logits(ops: Ops, weights: Weights, hidden: Array) -> Array:
    """Next-token logits of the given rows of hidden states: [T, D] -> [T, V] float32."""
    return ops.linear(hidden, weights.lm_head)
