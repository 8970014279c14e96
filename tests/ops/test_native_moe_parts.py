"""Experts in parts, in any order, give what all of them in one call give, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octuor.errors import RequestError, ShapeError
from octuor.ops.native import NativeOps, implementations
from octuor.quant import find_format
from octuor.weights import Expert, Weight

FORMATS = ("q4", "f32", "q8", "bf16", "q3", "q4")


@pytest.mark.parametrize("isa", implementations())
@pytest.mark.parametrize("n_tokens", [1, 3, 40, 1100])
def test_parts_in_any_order_are_the_whole(isa: str, n_tokens: int) -> None:
    rng = np.random.default_rng(0)
    ops, dim, hidden = NativeOps(isa, threads=2), 70 if n_tokens < 100 else 6, 300 if n_tokens < 100 else 5

    def leaf(name: str, *shape: int) -> Any:
        row = find_format(name)
        return ops.put(Weight(ops.quantize(rng.standard_normal(shape, dtype=np.float32), row), shape, row))

    experts = [Expert(leaf(f, hidden, dim), leaf(f, hidden, dim), leaf(f, dim, hidden)) for f in FORMATS]
    x = rng.standard_normal((n_tokens, dim)).astype(np.float32)
    routing = ops.route(x, leaf("f32", len(experts), dim), 3)
    whole = ops.moe(x, routing, experts)
    partial = np.full((n_tokens, 3, dim), np.nan, dtype=np.float32)
    for held in ([4], [5, 0], [3, 1, 2]):
        present = [expert if e in held else None for e, expert in enumerate(experts)]
        ops._context.moe_part(x, routing.experts, present, np.array(held, dtype=np.int32), partial)
    out = np.empty_like(x)
    ops._context.moe_sum(routing.experts, routing.weights, partial, out)
    assert np.array_equal(out, whole)


def test_wrong_shapes_and_numbers_are_errors() -> None:
    context = NativeOps(threads=1)._context
    x, experts = np.zeros((2, 6), np.float32), np.zeros((2, 2), np.int32)
    with pytest.raises(ShapeError, match=r"partial: expected \[2, 2, 6\], found \[2, 3, 6\]"):
        context.moe_part(x, experts, [None], np.zeros(0, np.int32), np.zeros((2, 3, 6), np.float32))
    with pytest.raises(RequestError, match=r"held experts: expected numbers in 0..0, found 1"):
        context.moe_part(x, experts, [None], np.ones(1, np.int32), np.zeros((2, 2, 6), np.float32))
    with pytest.raises(ShapeError, match=r"weights: expected \[2, 2\]"):
        context.moe_sum(experts, np.zeros((2, 1), np.float32), np.zeros((2, 2, 6), np.float32), x)
    with pytest.raises(RequestError, match="experts: expected"):
        context.moe_sum(experts - 1, np.zeros((2, 2), np.float32), np.zeros((2, 2, 6), np.float32), x)
