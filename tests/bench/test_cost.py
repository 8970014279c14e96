"""Bytes and operations of forward passes, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from octuor.bench.cost import Cost, Sizes
from octuor.config import MIXTRAL_8X7B, ModelConfig
from octuor.weights import weight_shapes

CONFIG = ModelConfig(
    dim=8, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, hidden_dim=10, vocab_size=20, n_experts=4,
)  # fmt: skip
# f32: wq and wo 24 x 8, wk and wv 12 x 8, router 4 x 8, two norms of 8; gate, up and down 10 x 8
LAYER = 4 * (2 * 24 * 8 + 2 * 12 * 8 + 4 * 8 + 2 * 8)
EXPERT = 4 * 3 * 80
HEAD = 4 * (20 * 8 + 8)
ROW = 4 * 8
POSITION = 2 * 2 * 2 * 6 * 2  # layers, keys and values, kv heads, head_dim, bytes
ATTENTION = 2 * (2 * 24 * 8 + 2 * 12 * 8)  # operations a token and layer
EXPERTS = 2 * (4 * 8 + 2 * 3 * 80)  # the router and two experts
PRODUCTS = ATTENTION + EXPERTS
PAIR = 2 * 2 * 2 * 4 * 6  # layers; scores and values; operations; heads, head_dim
LOGITS = 2 * 20 * 8


def sizes(config: ModelConfig) -> Sizes:
    return Sizes.of(config, {name: 4 * int(np.prod(shape)) for name, shape in weight_shapes(config)})


def test_sizes_add_up_to_the_model() -> None:
    found = sizes(CONFIG)
    assert found.layers == (LAYER, LAYER)
    assert found.experts == ((EXPERT,) * 4,) * 2
    assert (found.head, found.embed) == (HEAD, ROW)
    assert found.total == 4 * CONFIG.n_params == 2 * LAYER + 8 * EXPERT + HEAD + 20 * ROW


def test_a_prompts_step_reads_the_experts_met_once() -> None:
    cost = Cost.none(CONFIG)
    chosen = [np.array([[0, 1], [1, 0], [1, 3]]), np.array([[2, 1], [2, 1], [2, 1]])]
    cost.add_step(CONFIG, sizes(CONFIG), chosen, [5], 3, 1)
    assert cost.n_bytes == 2 * LAYER + 5 * EXPERT + HEAD + 3 * ROW + 8 * POSITION
    assert cost.n_ops == 2 * 3 * ATTENTION + (3 + 1) * EXPERTS + (6 + 7 + 8) * PAIR + LOGITS
    assert cost.loads.tolist() == [[2, 3, 0, 1], [0, 1, 1, 0]]


def test_a_batch_of_answers_has_a_past_and_logits_each() -> None:
    cost = Cost.none(CONFIG)
    chosen = [np.array([[0, 1], [1, 2]])] * 2
    cost.add_step(CONFIG, sizes(CONFIG), chosen, [5, 9], 1, 2)
    assert cost.n_bytes == 2 * LAYER + 6 * EXPERT + HEAD + 2 * ROW + (6 + 10) * POSITION
    assert cost.n_ops == 2 * 2 * PRODUCTS + (6 + 10) * PAIR + 2 * LOGITS


def test_steps_add_up() -> None:
    once, twice = Cost.none(CONFIG), Cost.none(CONFIG)
    chosen = [np.array([[0, 1]])] * 2
    once.add_step(CONFIG, sizes(CONFIG), chosen, [5], 1, 1)
    for _ in range(2):
        twice.add_step(CONFIG, sizes(CONFIG), chosen, [5], 1, 1)
    assert (twice.n_bytes, twice.n_ops) == (2 * once.n_bytes, 2 * once.n_ops)


def test_a_sliding_window_limits_what_is_seen() -> None:
    config = replace(CONFIG, sliding_window=4)
    cost, whole = Cost.none(config), Cost.none(CONFIG)
    chosen = [np.array([[0, 1]] * 3)] * 2
    cost.add_step(config, sizes(config), chosen, [5], 3, 1)
    whole.add_step(CONFIG, sizes(CONFIG), chosen, [5], 3, 1)
    assert whole.n_bytes - cost.n_bytes == (8 - 6) * POSITION  # positions 2 to 7 are seen by some token
    assert whole.n_ops - cost.n_ops == (6 + 7 + 8 - 3 * 4) * PAIR


def test_a_token_of_mixtral_takes_what_its_active_weights_do() -> None:
    cost = Cost.none(MIXTRAL_8X7B)
    zeros = Sizes.of(MIXTRAL_8X7B, {name: 0 for name, _ in weight_shapes(MIXTRAL_8X7B)})
    cost.add_step(MIXTRAL_8X7B, zeros, [np.array([[0, 1]])] * 32, [0], 1, 1)
    norms = 65 * 4096
    attention = 4 * 32 * 32 * 128
    assert cost.n_ops == 2 * (MIXTRAL_8X7B.n_active_params - norms) + attention
