"""The NumPy definition itself: values worked out by hand, and definitions.py in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import definitions
from octuor.ops import LayerRouting
from octuor.ops.reference import ReferenceOps, silu, softmax
from octuor.quant import F32, FORMATS, Format
from octuor.weights import Expert, Weight
from toys import relative_error

FLOAT32 = 4e-6  # sums of up to 100 terms in float32
OPS = ReferenceOps()


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaf(x: NDArray[np.float32], row: Format = F32) -> Weight:
    return Weight(row.quantize(x), x.shape, row)


def test_softmax_and_silu() -> None:
    np.testing.assert_allclose(softmax(np.log(np.array([[1, 3]], np.float32))), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(softmax(np.array([1e30, 1e30], np.float32)), [0.5, 0.5])
    x = np.array([0, 1, -1, -1e4, 1e4], dtype=np.float32)
    np.testing.assert_allclose(silu(x), [0, 1 / (1 + np.exp(-1)), -1 / (1 + np.exp(1)), 0, 1e4], rtol=1e-6)


def test_rms_norm() -> None:
    x = np.array([[3, 4], [0, 0]], dtype=np.float32)  # mean square 12.5
    found = OPS.rms_norm(x, leaf(np.array([1, 10], np.float32)), 0.0 + 1e-12)
    np.testing.assert_allclose(found, [[3 / 12.5**0.5, 40 / 12.5**0.5], [0, 0]], rtol=1e-6)
    x, weight = random(3, 70), random(70)
    assert relative_error(OPS.rms_norm(x, leaf(weight), 1e-5), definitions.rms_norm(x, weight, 1e-5)) < FLOAT32


def test_rope_turns_pairs_of_halves() -> None:
    x = np.array([[[1, 0, 0, 1]]], dtype=np.float32)  # pairs (1, 0) and (0, 1)
    found = OPS.rope(x, np.array([2], np.int32), 100.0)  # angles 2 and 2 / 10
    np.testing.assert_allclose(found, [[[np.cos(2), -np.sin(0.2), np.sin(2), np.cos(0.2)]]], rtol=1e-6)
    x, positions = random(3, 2, 8), np.array([0, 1, 65535], dtype=np.int32)
    assert relative_error(OPS.rope(x, positions, 1e6), definitions.rope(x, positions, 1e6)) < FLOAT32


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_linear_widens_its_weight(row: Format) -> None:
    weight, x = leaf(random(5, 70), row), random(3, 70, seed=1)
    assert relative_error(OPS.linear(x, weight), x.astype(np.float64) @ weight.to_f32().T) < FLOAT32
    np.testing.assert_array_equal(OPS.embed(np.array([4, 0], np.int32), weight), weight.to_f32()[[4, 0]])


def test_route_orders_ties_by_index() -> None:
    logits = np.array([[1, 3, 3, 2], [0, 0, 0, 0]], dtype=np.float32)
    routing = OPS.route(logits, leaf(np.eye(4, dtype=np.float32)), 2)
    np.testing.assert_array_equal(routing.experts, [[1, 2], [0, 1]])
    np.testing.assert_array_equal(routing.weights, np.full((2, 2), 0.5))
    np.testing.assert_array_equal(routing.logits, logits)


def test_a_dense_layer_has_one_expert_for_all() -> None:
    routing = OPS.route(random(3, 4), None, 1)
    np.testing.assert_array_equal(routing.experts, np.zeros((3, 1)))
    np.testing.assert_array_equal(routing.weights, np.ones((3, 1)))


def test_moe_weighs_the_experts_of_each_token() -> None:
    experts = [Expert(*(leaf(random(*shape, seed=e)) for shape in ((7, 5), (7, 5), (5, 7)))) for e in range(3)]
    chosen = np.array([[0, 2], [2, 1], [1, 0]], dtype=np.int32)
    routing = LayerRouting(chosen, np.array([[0.9, 0.1], [0.5, 0.5], [1, 0]], np.float32), random(3, 3))
    x = random(3, 5)
    assert relative_error(OPS.moe(x, routing, experts), definitions.moe(x, routing, experts)) < FLOAT32


def test_leaves_are_the_weights_themselves() -> None:
    weight = leaf(random(2, 3))
    assert OPS.put(weight) is weight
    x = random(2, 3)
    assert OPS.to_numpy(x) is x
