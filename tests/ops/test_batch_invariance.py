"""To the last bit, a token's result depends on its own sequence only: not on who else is in the call, nor on the cuts.

test_attention_invariance.py has attention, tests/test_model_invariance.py whole passes.
"""

from __future__ import annotations

import numpy as np
import pytest

from definitions import random, stored
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps, implementations
from octuor.quant import FORMATS
from octuor.weights import Expert

ALL = pytest.mark.parametrize("isa", implementations())
EACH_FORMAT = pytest.mark.parametrize("name", FORMATS)
TOKENS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 33, 67, 257, 260)  # around register blocks, and beyond a block of tokens
SHAPES = ((65, 257), (130, 2300), (3, 5))  # several panels of a plain row, several tiles, less than a vector


@ALL
@EACH_FORMAT
def test_linear_of_a_token_is_the_same_beside_any_number(isa: str, name: str) -> None:
    ops = NativeOps(isa, threads=2)
    for out, inputs in SHAPES:
        leaf = ops.put(stored(name, out, inputs))
        x = random(max(TOKENS), inputs)
        alone = np.concatenate([ops.linear(x[t : t + 1], leaf) for t in range(len(x))])
        for n in TOKENS:
            np.testing.assert_array_equal(ops.linear(x[-n:], leaf), alone[-n:], err_msg=f"{n} of [{out}, {inputs}]")


@ALL
@EACH_FORMAT
def test_experts_of_a_token_are_the_same_beside_any_number(isa: str, name: str) -> None:
    ops = NativeOps(isa, threads=2)
    dim, hidden_dim, n_experts = 70, 300, 5
    x = random(max(TOKENS), dim)
    experts = [
        Expert(
            ops.put(stored(name, hidden_dim, dim, seed=e)),
            ops.put(stored(name, hidden_dim, dim, seed=10 + e)),
            ops.put(stored(name, dim, hidden_dim, seed=20 + e)),
        )
        for e in range(n_experts)
    ]
    routing = ops.route(x, ops.put(stored("f32", n_experts, dim)), 2)
    alone = np.concatenate([ops.moe(x[t : t + 1], rows(routing, t, t + 1), experts) for t in range(len(x))])
    for n in TOKENS:
        found = ops.moe(x[-n:], rows(routing, len(x) - n, len(x)), experts)
        np.testing.assert_array_equal(found, alone[-n:], err_msg=str(n))


def rows(routing: LayerRouting, first: int, end: int) -> LayerRouting:
    return LayerRouting(*(part[first:end] for part in routing))


@ALL
def test_the_rest_of_a_pass_takes_each_token_by_itself(isa: str) -> None:
    ops = NativeOps(isa, threads=2)
    x, norm, router = random(40, 2310), random(2310), ops.put(stored("f32", 7, 2310))
    heads, positions = x.reshape(40, 5, 462), np.arange(100, 140, dtype=np.int32)
    routed = ops.route(x, router, 2)
    normed, turned = ops.rms_norm(x, norm, 1e-5), ops.rope(heads, positions, 1e6)
    for t in range(40):
        own = slice(t, t + 1)
        for found, expected in zip(ops.route(x[own], router, 2), rows(routed, t, t + 1), strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(ops.rms_norm(x[own], norm, 1e-5), normed[own])
        np.testing.assert_array_equal(ops.rope(heads[own], positions[own], 1e6), turned[own])
