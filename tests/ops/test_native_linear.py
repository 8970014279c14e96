"""Products, norms, rotations, routing and experts of every native implementation against definitions.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import definitions
from definitions import random, stored
from octuor import _native
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps, implementations
from octuor.quant import F32, FORMATS, Format
from octuor.weights import Expert, Weight
from toys import relative_error

F32Array = NDArray[np.float32]

FLOAT32 = 4e-6  # sums of up to 600 products in float32, relative to the largest result
EXP = 2e-5  # as above, through silu and two more products
NEIGHBOUR = 5e-3  # a hidden input that lies between two int8 codes may be rounded to either
TOKENS = (0, 1, 2, 3, 5, 9, 17, 40, 133)  # every remainder of a register block, and more than a block of tokens
SHAPES = ((1, 1), (3, 5), (64, 256), (65, 257), (70, 300), (129, 515))
AROUND_VECTORS = tuple(range(1, 36))  # zero to twice the widest vector and a bit

ALL = pytest.mark.parametrize("isa", implementations())
EACH_FORMAT = pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)


@ALL
@EACH_FORMAT
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(isa: str, row: Format, shape: tuple[int, int]) -> None:
    ops = NativeOps(isa, threads=2)
    weight = stored(row.name, *shape)
    leaf = ops.put(weight)
    for n_tokens in TOKENS:
        x = random(n_tokens, shape[1])
        assert relative_error(ops.linear(x, leaf), definitions.linear(x, weight)) < FLOAT32, n_tokens


@ALL
@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_linear_of_widths_around_a_vector(isa: str, name: str) -> None:
    ops = NativeOps(isa, threads=1)
    for inputs in AROUND_VECTORS:
        weight, x = stored(name, 6, inputs), random(3, inputs)
        assert relative_error(ops.linear(x, ops.put(weight)), definitions.linear(x, weight)) < FLOAT32, inputs


@ALL
@EACH_FORMAT
def test_a_tiled_product_is_near_that_of_the_unrounded_inputs(isa: str, row: Format) -> None:
    ops = NativeOps(isa, threads=1)
    weight, x = stored(row.name, 200, 512), random(7, 512)
    exact = x.astype(np.float64) @ weight.to_f32().T
    error = np.sqrt(np.square(ops.linear(x, ops.put(weight)) - exact).mean() / np.square(exact).mean())
    assert error < 0.01  # int8 steps of 1/127 of the largest input: 0.7 % of a Gaussian


@ALL
@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.is_tiled])
def test_sums_of_the_largest_products_do_not_overflow(isa: str, name: str) -> None:
    ops = NativeOps(isa, threads=1)
    w = np.ones((130, 512), dtype=np.float32)
    w[1::2] *= -1
    w[2::3, 1::2] *= -1
    weight = Weight(FORMATS[name].quantize(w), w.shape, FORMATS[name])
    x = np.ones((18, 512), dtype=np.float32)
    x[1::2] *= -1
    x[2::3, 1::2] *= -1
    for n_tokens in (1, 2, 18):
        found = ops.linear(x[:n_tokens], ops.put(weight))
        assert relative_error(found, definitions.linear(x[:n_tokens], weight)) < FLOAT32, n_tokens


@ALL
@EACH_FORMAT
def test_only_the_result_is_written(isa: str, row: Format) -> None:
    context = _native.Context(isa, 2)
    out, inputs, n_tokens = 70, 300, 5
    weight = stored(row.name, out, inputs)
    guard, size = 64, n_tokens * out
    memory = np.full(size + 2 * guard, 7.0, dtype=np.float32)
    result = memory[guard : guard + size].reshape(n_tokens, out)
    context.linear(random(n_tokens, inputs), _native.Matrix(weight.data, (out, inputs), row.name), result)
    assert (memory[:guard] == 7).all()
    assert (memory[-guard:] == 7).all()
    assert (result != 7).all()


@ALL
@EACH_FORMAT
def test_a_bad_number_stays_in_its_token(isa: str, row: Format) -> None:
    ops = NativeOps(isa, threads=1)
    leaf = ops.put(stored(row.name, 66, 300))
    for n_tokens in (3, 12):
        for bad in (np.nan, np.inf):
            x = random(n_tokens, 300)
            good = ops.linear(x, leaf)
            x[1, 299] = bad
            found = ops.linear(x, leaf)
            assert not np.isfinite(found[1]).any()
            np.testing.assert_array_equal(np.delete(found, 1, axis=0), np.delete(good, 1, axis=0))


@ALL
@EACH_FORMAT
def test_embed(isa: str, row: Format) -> None:
    ops = NativeOps(isa, threads=1)
    weight = stored(row.name, 130, 270)
    for tokens in ([], [0], [129, 3, 3, 64]):
        ids = np.array(tokens, dtype=np.int32)
        np.testing.assert_array_equal(ops.embed(ids, ops.put(weight)), weight.to_f32()[ids])


@ALL
def test_rms_norm(isa: str) -> None:
    ops = NativeOps(isa, threads=2)
    for n_tokens, dim in [(3, dim) for dim in AROUND_VECTORS] + [(0, 8), (1, 4096), (33, 4099)]:
        x, weight = 5 * random(n_tokens, dim), random(dim)
        found = ops.rms_norm(x, ops.put(Weight(weight, (dim,), F32)), 1e-5)
        assert relative_error(found, definitions.rms_norm(x, weight, 1e-5)) < FLOAT32, dim


@ALL
def test_rope(isa: str) -> None:
    ops = NativeOps(isa, threads=1)
    for positions in ([], [0], [3, 4, 65535, 0]):
        at = np.array(positions, dtype=np.int32)
        for head_dim in (*range(2, 72, 2), 128):
            x = random(len(at), 3, head_dim)
            assert relative_error(ops.rope(x, at, 1e6), definitions.rope(x, at, 1e6)) < FLOAT32, head_dim


@ALL
def test_route_prefers_the_lower_index_in_ties(isa: str) -> None:
    ops = NativeOps(isa, threads=1)
    router = ops.put(Weight(np.eye(4, dtype=np.float32), (4, 4), F32))
    logits = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [-1, -2, -2, -2]], dtype=np.float32)
    routing = ops.route(logits, router, 2)
    np.testing.assert_array_equal(routing.experts, [[1, 2], [0, 1], [0, 1]])
    np.testing.assert_allclose(routing.weights[:2], 0.5)
    np.testing.assert_allclose(routing.weights[2], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)
    np.testing.assert_array_equal(routing.logits, logits)


@ALL
def test_route_chooses_different_experts_whatever_the_logits(isa: str) -> None:
    ops = NativeOps(isa, threads=1)
    router = ops.put(Weight(np.eye(4, dtype=np.float32), (4, 4), F32))
    routing = ops.route(np.full((2, 4), np.nan, dtype=np.float32), router, 3)
    assert [sorted(set(row)) for row in routing.experts.tolist()] == [[0, 1, 2]] * 2


@ALL
@pytest.mark.parametrize("n_chosen", [1, 2, 4])
def test_route_weighs_the_largest_logits(isa: str, n_chosen: int) -> None:
    ops = NativeOps(isa, threads=2)
    weight = stored("f32", 5, 37)
    x = 3 * random(40, 37)
    routing = ops.route(x, ops.put(weight), n_chosen)
    logits = definitions.linear(x, weight)
    np.testing.assert_array_equal(routing.experts, np.argsort(-logits, axis=1)[:, :n_chosen])
    chosen = np.exp(np.take_along_axis(logits, routing.experts.astype(np.int64), axis=1))
    assert relative_error(routing.weights, (chosen / chosen.sum(axis=1, keepdims=True))) < EXP


def test_a_dense_layer_has_one_expert_for_all() -> None:
    routing = NativeOps(threads=1).route(np.zeros((3, 4), dtype=np.float32), None, 1)
    np.testing.assert_array_equal(routing.experts, np.zeros((3, 1)))
    np.testing.assert_array_equal(routing.weights, np.ones((3, 1)))


def some_experts(names: Sequence[str], dim: int, hidden: int) -> list[Expert]:
    gate, up, down = names
    return [
        Expert(
            stored(gate, hidden, dim, seed=e), stored(up, hidden, dim, seed=e + 4), stored(down, dim, hidden, seed=e)
        )
        for e in range(4)
    ]


def put(ops: NativeOps, experts: list[Expert]) -> list[Expert]:
    return [Expert(*(ops.put(part) for part in (expert.gate, expert.up, expert.down))) for expert in experts]


@ALL
@EACH_FORMAT
def test_moe(isa: str, row: Format) -> None:
    ops = NativeOps(isa, threads=2)
    tolerance = NEIGHBOUR if row.is_tiled else EXP
    for dim, hidden in ((5, 3), (70, 300), (260, 513)):
        experts = some_experts([row.name] * 3, dim, hidden)
        leaves = put(ops, experts)
        router = ops.put(stored("f32", 4, dim))
        for n_tokens, n_chosen in ((0, 2), (1, 1), (1, 2), (2, 4), (7, 2), (40, 3)):
            x = random(n_tokens, dim)
            routing = ops.route(x, router, n_chosen)
            found, expected = ops.moe(x, routing, leaves), definitions.moe(x, routing, experts)
            assert relative_error(found, expected) < tolerance, (dim, n_tokens, n_chosen)


@ALL
def test_moe_of_mixed_formats(isa: str) -> None:
    ops = NativeOps(isa, threads=2)
    experts = some_experts(["q4", "bf16", "q8"], 70, 300)[:2] + some_experts(["f32", "q8", "f16"], 70, 300)[2:]
    x = random(9, 70)
    routing = ops.route(x, ops.put(stored("f32", 4, 70)), 3)
    found = ops.moe(x, routing, put(ops, experts))
    assert relative_error(found, definitions.moe(x, routing, experts)) < NEIGHBOUR


@ALL
def test_moe_of_more_tokens_than_a_pass(isa: str) -> None:
    ops = NativeOps(isa, threads=2)
    leaves = put(ops, some_experts(["f32"] * 3, 6, 5))
    x = random(2100, 6)
    routing = ops.route(x, ops.put(stored("f32", 4, 6)), 2)
    whole = ops.moe(x, routing, leaves)
    parts = [slice(0, 1), slice(1, 1000), slice(1000, 2100)]
    apart = [
        ops.moe(x[p], LayerRouting(routing.experts[p], routing.weights[p], routing.logits[p]), leaves) for p in parts
    ]
    assert relative_error(whole, np.concatenate(apart)) < FLOAT32


def test_moe_asks_only_for_experts_that_play() -> None:
    ops = NativeOps(threads=1)
    leaves: list[Expert | None] = [*put(ops, some_experts(["f32"] * 3, 6, 5))]
    leaves[0] = leaves[3] = None
    experts = np.array([[1, 2], [2, 1]], dtype=np.int32)
    routing = LayerRouting(experts, np.full((2, 2), 0.5, np.float32), np.zeros((2, 4), np.float32))
    assert np.isfinite(ops.moe(random(2, 6), routing, leaves)).all()  # type: ignore[arg-type]
