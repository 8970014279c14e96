"""The torch operations against the NumPy definition, one by one. Run with `make test-parity`.

T tokens, H query heads, K kv heads, C head_dim, D dim, E experts, A experts a token.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from octuor.batch import Batch, step, whole
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.ops import LayerRouting, Ops
from octuor.ops.reference import ReferenceOps
from octuor.ops.torch import TorchOps
from octuor.quant import F32
from octuor.weights import Expert, Weight
from toys import F32Array, Toy, leaves, random_values, relative_error

# Float32 sums of up to 100 products in another order, relative to the largest result.
TOLERANCE = 2e-6
# bfloat16 has 8 bits: one rounding of inputs, weights and result each, in sums that average the first two.
BF16_TOLERANCE = 3 * 2.0**-8

CONFIG = ModelConfig(
    dim=37, n_layers=2, n_heads=6, n_kv_heads=2, head_dim=10, hidden_dim=29, vocab_size=61,
    n_experts=5, n_experts_per_token=2, rope_theta=1e4, max_seq_len=64,
)  # fmt: skip
REFERENCE, TORCH = ReferenceOps(), TorchOps()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # arrays so small that threads would only wait for each other


def normal(*shape: int, seed: int = 0) -> F32Array:
    return np.random.default_rng([8, seed, *shape]).standard_normal(shape).astype(np.float32)


def weight(x: F32Array) -> Weight:
    return Weight(x, x.shape, F32)


def assert_same(found: torch.Tensor, expected: F32Array, tolerance: float = TOLERANCE) -> None:
    assert relative_error(TORCH.to_numpy(found), expected) <= tolerance


@pytest.mark.parametrize("n_tokens", [0, 1, 7])
def test_embed(n_tokens: int) -> None:
    rows = weight(normal(11, 5))
    tokens = np.arange(n_tokens, dtype=np.int32) * 3 % 11
    found = TORCH.embed(tokens, TORCH.put(rows))
    np.testing.assert_array_equal(TORCH.to_numpy(found), REFERENCE.embed(tokens, rows))


@pytest.mark.parametrize("eps", [1e-6, 1e-1])
def test_rms_norm(eps: float) -> None:
    x, own = 1e-2 * normal(4, 37), weight(normal(37))
    found = TORCH.rms_norm(torch.from_numpy(x), TORCH.put(own), eps)
    assert_same(found, REFERENCE.rms_norm(x, own, eps))


@pytest.mark.parametrize("n_tokens", [0, 1, 5])
def test_linear(n_tokens: int) -> None:
    x, own = normal(n_tokens, 37), weight(normal(13, 37))
    assert_same(TORCH.linear(torch.from_numpy(x), TORCH.put(own)), REFERENCE.linear(x, own))


def test_linear_runs_in_the_dtype_of_its_weight() -> None:
    half = TorchOps(dtype=torch.bfloat16)
    x, own = normal(5, 37), weight(normal(13, 37))
    found = half.linear(torch.from_numpy(x), half.put(own))
    assert found.dtype == torch.bfloat16
    assert_same(found, REFERENCE.linear(x, own), BF16_TOLERANCE)


def test_put_keeps_vectors_float32_and_never_aliases() -> None:
    half = TorchOps(dtype=torch.bfloat16)
    values = normal(4, 6)
    leaf = half.put(weight(values)), half.put(weight(values[0].copy()))
    assert [x.dtype for x in leaf] == [torch.bfloat16, torch.float32]
    kept = values.copy()
    TORCH.put(weight(values)).zero_()
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_rope(theta: float) -> None:
    x = normal(4, 3, 10)
    positions = np.array([0, 1, 977, 65535], dtype=np.int32)
    assert_same(TORCH.rope(torch.from_numpy(x), positions, theta), REFERENCE.rope(x, positions, theta))


# ---- attention -----------------------------------------------------------------------------------


def heads(n_tokens: int) -> tuple[F32Array, F32Array, F32Array]:
    c = CONFIG
    shapes = [(n_tokens, n, c.head_dim) for n in (c.n_heads, c.n_kv_heads, c.n_kv_heads)]
    q, k, v = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    return 2 * q, k, v


def attend(ops: Ops, batch: Batch, rows: Sequence[F32Array], window: int | None) -> F32Array:
    q, k, v = (torch.from_numpy(x) if isinstance(ops, TorchOps) else x for x in rows)
    return ops.to_numpy(ops.attention(q, k, v, batch, 1, window))


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("lengths", [[9], [5, 5, 5], [1, 8, 3], [4, 0, 2]], ids=str)
def test_attention_of_whole_sequences(lengths: list[int], window: int | None) -> None:
    batch = whole([[0] * n for n in lengths])
    rows = heads(sum(lengths))
    expected = attend(REFERENCE, batch, rows, window)
    assert relative_error(attend(TORCH, batch, rows, window), expected) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_over_the_cache(window: int | None, dtype: str) -> None:
    """Three steps of two sequences that begin and grow at different times, in the same pages as the definition's."""
    config = replace(CONFIG, sliding_window=window)
    found, expected = (
        _steps(ops, KVCache(config, ops.zeros, 64, dtype=dtype, page_size=4), window) for ops in (TORCH, REFERENCE)
    )
    for rows, wanted in zip(found, expected, strict=True):
        assert relative_error(rows, wanted) <= TOLERANCE


def _steps(ops: Ops, cache: KVCache, window: int | None) -> list[F32Array]:
    a, b = cache.new(), cache.new()
    out = []
    for n_a, n_b in [(6, 0), (1, 9), (7, 1)]:
        batch = step(cache, [(a, [0] * n_a), (b, [0] * n_b)])
        out.append(attend(ops, batch, heads(n_a + n_b), window))
    batch = step(cache, [(a, [0]), (a, [0]), (b, [0]), (a, [0] * 3)])  # entries of one sequence follow one another
    out.append(attend(ops, batch, heads(6), window))
    return out


# ---- experts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_chosen", [1, 2, 5])
def test_route(n_chosen: int) -> None:
    x, router = normal(9, 37), weight(normal(5, 37))
    found = TORCH.route(torch.from_numpy(x), TORCH.put(router), n_chosen)
    expected = REFERENCE.route(x, router, n_chosen)
    np.testing.assert_array_equal(found.experts.numpy(), expected.experts)
    assert_same(found.weights, expected.weights)
    assert_same(found.logits, expected.logits)


def test_route_gives_ties_to_the_lower_index() -> None:
    router = weight(np.ones((64, 4), dtype=np.float32))  # more than a small sort keeps in order by chance
    found = TORCH.route(torch.ones(3, 4), TORCH.put(router), 3)
    assert found.experts.tolist() == [[0, 1, 2]] * 3


def test_route_without_a_router_is_expert_0() -> None:
    found = TORCH.route(torch.ones(2, 4), None, 1)
    assert (found.experts.tolist(), found.weights.tolist()) == ([[0], [0]], [[1.0], [1.0]])


@pytest.mark.parametrize("n_tokens", [1, 12])
def test_moe(n_tokens: int) -> None:
    """One token leaves three of five experts idle."""
    x = normal(n_tokens, 37)
    shapes = [(29, 37), (29, 37), (37, 29)]
    experts = [[weight(normal(*shape, seed=9 * e + i)) for i, shape in enumerate(shapes)] for e in range(5)]
    routing = REFERENCE.route(x, weight(normal(5, 37)), 2)
    expected = REFERENCE.moe(x, routing, [Expert(*parts) for parts in experts])
    theirs = LayerRouting(*(torch.from_numpy(part) for part in routing))
    theirs = theirs._replace(experts=theirs.experts.long())
    found = TORCH.moe(torch.from_numpy(x), theirs, [Expert(*map(TORCH.put, parts)) for parts in experts])
    assert_same(found, expected)


# ---- whole models --------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 6])
def test_decode_equals_prefill(window: int | None) -> None:
    config = replace(CONFIG, sliding_window=window)
    toy = Toy(TORCH, config, leaves(random_values(config, [1])))
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, 20).tolist()
    cache = toy.cache(20, page_size=4)
    sequence = cache.new()
    ends = [0, 7, 8, 9, 14, 15, 16, 17, 18, 19, 20]
    rows = [toy.extend(cache, sequence, tokens[start:end]) for start, end in pairwise(ends)]
    assert relative_error(np.concatenate(rows), toy.alone(tokens)) <= 10 * TOLERANCE  # ten operations deep


def test_a_bfloat16_model_stays_close() -> None:
    values = random_values(CONFIG, [3])
    tokens = list(range(20))
    half = Toy(TorchOps(dtype=torch.bfloat16), CONFIG, leaves(values)).alone(tokens)
    full = Toy(TORCH, CONFIG, leaves(values)).alone(tokens)
    # a token whose experts are nearly tied may be routed to others, so the middle one is judged
    per_token = np.abs(half - full).max(axis=1) / np.abs(full).max()
    assert 0 < np.median(per_token) <= 4 * BF16_TOLERANCE  # four roundings deep in each of the residual's two layers
