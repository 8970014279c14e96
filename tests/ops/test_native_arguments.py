"""What bad arguments of the native operations raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from definitions import random
from octuor.batch import Batch, step
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.errors import RequestError, ShapeError
from octuor.ops import LayerRouting
from octuor.ops.native import (
    NativeOps,
)
from octuor.quant import F32
from octuor.weights import Expert, Weight

OPS = NativeOps(threads=1)
LEAF = OPS.put(Weight(random(4, 6), (4, 6), F32))
IDS = np.array([0, 1], dtype=np.int32)
HALVES = random(2, 6).astype(np.float16)


@pytest.mark.parametrize(
    "call",
    [
        lambda: OPS.linear(random(2, 6).astype(np.float64), LEAF),
        lambda: OPS.linear(HALVES, LEAF),  # type: ignore[arg-type]
        lambda: OPS.linear(random(2, 12)[:, ::2], LEAF),
        lambda: OPS.linear(random(6, 2).T, LEAF),
        lambda: OPS.linear(random(1, 2, 6), LEAF),
        lambda: OPS.linear(random(2, 6), random(4, 6)),  # type: ignore[arg-type]
        lambda: OPS.rms_norm(random(2, 6), random(6).astype(np.float64), 1e-5),
        lambda: OPS.embed(IDS.astype(np.int64), LEAF),
        lambda: OPS.rope(random(2, 1, 6), IDS.astype(np.int64), 1e4),
        lambda: OPS._context.linear(random(2, 6), LEAF, np.zeros((2, 4))),  # type: ignore[arg-type]
        lambda: OPS._context.linear(random(2, 6), LEAF, np.zeros((4, 2), np.float32).T),
    ],
)
def test_a_wrong_dtype_or_layout_is_a_type_error(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        call()


def test_a_read_only_result_is_a_type_error() -> None:
    out = np.zeros((2, 4), dtype=np.float32)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        OPS._context.linear(random(2, 6), LEAF, out)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OPS.linear(random(2, 5), LEAF), r"x: expected \[2, 6\], found \[2, 5\]"),
        (lambda: OPS.rms_norm(random(2, 6), random(5), 1e-5), r"norm weight: expected \[6\], found \[5\]"),
        (lambda: OPS.rope(random(2, 1, 5), IDS, 1e4), "even head_dim, found 5"),
        (lambda: OPS.rope(random(3, 1, 6), IDS, 1e4), r"positions: expected \[3\]"),
        (lambda: OPS.route(random(2, 5), LEAF, 2), r"x: expected \[2, 6\]"),
        (lambda: attend(k=random(2, 3, 4), v=random(2, 3, 4)), "multiple of k's 3"),
        (lambda: attend(k=random(3, 2, 4)), r"k: expected \[2, 2, 4\]"),
        (lambda: attend(v=random(2, 2, 6)), r"v: expected \[2, 2, 4\]"),
        (lambda: attend(starts=[0, 1]), "expected to end at 2, found 1"),
        (lambda: attend(starts=[0, 3]), "rising from 0 to 2, found 3"),
        (lambda: attend(starts=[0, 2, 1, 2]), "found 1 at place 2"),
        (lambda: attend(starts=[1, 2]), "found 1 at place 0"),
        (lambda: moe(down=random(6, 4)), r"expert down: expected \[6, 8\], found \[6, 4\]"),
        (lambda: moe(gate=random(8, 5)), r"expert gate: expected \[8, 6\], found \[8, 5\]"),
        (lambda: moe(up=random(7, 6)), r"expert up: expected \[8, 6\], found \[7, 6\]"),
    ],
)
def test_a_wrong_shape_is_a_shape_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: OPS.embed(np.array([0, 4], np.int32), LEAF),
            r"token ids: expected numbers in 0\.\.3, found 4 at place 1",
        ),
        (lambda: OPS.embed(np.array([-1], np.int32), LEAF), "found -1"),
        (lambda: OPS.route(random(2, 6), LEAF, 5), r"experts a token: expected 1\.\.4, found 5"),
        (lambda: moe(experts=[[0, 1], [2, 0]]), r"experts: expected numbers in 0\.\.1, found 2 at place 2"),
        (lambda: moe(experts=[[0, -1], [0, 0]]), "found -1"),
        (lambda: attend(positions=[0, 2]), r"positions of a whole sequence: expected numbers in 0\.\.1, found 2"),
        (lambda: attend(positions=[-1, 0]), "found -1"),
        (lambda: attend(window=0), "window: expected at least 1, found 0"),
    ],
)
def test_a_number_out_of_range_is_a_request_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call()


def attend(
    k: NDArray[np.float32] | None = None,
    v: NDArray[np.float32] | None = None,
    starts: list[int] | None = None,
    positions: list[int] | None = None,
    window: int | None = None,
) -> NDArray[np.float32]:
    plain = random(2, 2, 4)
    at = np.array([0, 1] if positions is None else positions, dtype=np.int32)
    batch = Batch(at, at, np.array([0, 2] if starts is None else starts, dtype=np.int32))
    return OPS.attention(random(2, 4, 4), plain if k is None else k, plain if v is None else v, batch, 0, window)


def moe(experts: list[list[int]] | None = None, **parts: NDArray[np.float32]) -> NDArray[np.float32]:
    own = {"gate": random(8, 6), "up": random(8, 6), "down": random(6, 8)} | parts
    expert = Expert(**{name: OPS.put(Weight(x, x.shape, F32)) for name, x in own.items()})
    chosen = np.array([[0, 1], [1, 0]] if experts is None else experts, dtype=np.int32)
    routing = LayerRouting(chosen, np.full((2, 2), 0.5, np.float32), random(2, 2))
    return OPS.moe(random(2, 6), routing, (expert, expert))


def test_an_expert_that_is_not_a_leaf_is_a_shape_error() -> None:
    expert = Expert(LEAF, "up", LEAF)
    routing = LayerRouting(np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32), random(1, 1))
    with pytest.raises(ShapeError, match="expert up: expected a matrix"):
        OPS.moe(random(1, 6), routing, (expert,))


def cached_step() -> tuple[Batch, NDArray[np.float32], KVCache]:
    config = ModelConfig(
        dim=8, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, hidden_dim=8, vocab_size=8, n_experts=1,
        n_experts_per_token=1,
    )  # fmt: skip
    cache = KVCache(config, OPS.zeros, 12, dtype="f32", page_size=4)
    sequence = cache.new()
    return step(cache, [(sequence, [0] * 6)]), random(6, 1, 4), cache


def test_a_page_that_is_not_in_the_cache_is_a_request_error() -> None:
    for page in (3, -1):
        batch, k, _ = cached_step()
        batch.table[0, 1] = page
        with pytest.raises(RequestError, match=rf"cache pages: expected numbers in 0\.\.2, found {page} at place 1"):
            OPS.attention(random(6, 2, 4), k, k, batch, 0, None)


def test_a_position_beyond_the_page_table_is_a_request_error() -> None:
    batch, k, _ = cached_step()
    batch.positions[5] = 8
    with pytest.raises(RequestError, match=r"positions: expected numbers in 0\.\.7, found 8"):
        OPS.attention(random(6, 2, 4), k, k, batch, 0, None)


def test_a_cache_of_another_shape_or_dtype_is_a_shape_error() -> None:
    batch, k, cache = cached_step()
    cache.keys[0] = np.zeros((3, 1, 4, 6), dtype=np.float32)
    with pytest.raises(ShapeError, match=r"cached keys: expected \[3, 1, 4, 4\], found \[3, 1, 4, 6\]"):
        OPS.attention(random(6, 2, 4), k, k, batch, 0, None)
    cache.keys[0] = np.zeros((3, 1, 4, 4), dtype=np.float16)
    with pytest.raises(ShapeError, match="keys and values in float32 or float16"):
        OPS.attention(random(6, 2, 4), k, k, batch, 0, None)
