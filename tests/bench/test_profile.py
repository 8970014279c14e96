"""Seconds by part of the forward pass: every operation is counted once, and nothing is changed."""

from __future__ import annotations

from itertools import count

import numpy as np

from octuor.batch import whole
from octuor.bench.profile import PARTS, TimedOps
from octuor.model import forward, logits
from octuor.ops.native import NativeOps
from octuor.ops.reference import ReferenceOps
from tiny_models import TINY
from toys import leaves, put_all, random_values

CALLS = {"embed": 1, "norms": 2 * 2 + 1, "linear": 2 * 4, "rope": 2 * 2, "attention": 2, "route": 2, "moe": 2}


def test_each_operation_counts_once_and_gives_the_same() -> None:
    ops = ReferenceOps()
    weights = put_all(ops, TINY, leaves(random_values(TINY, [0])))
    ticks = count()
    timed = TimedOps(ops, weights, lambda: next(ticks))  # each call lasts one tick
    batch = whole([range(5), range(3)])
    found = [
        logits(each, weights, forward(each, weights, TINY, batch)) for each in (ops, timed)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0], found[1])
    assert timed.seconds == {part: CALLS.get(part, 1) for part in PARTS}


def test_kernel_seconds_grow_with_calls_alone() -> None:
    ops = NativeOps(threads=1)
    x, weight = np.ones((400, 300), np.float32), np.ones(300, np.float32)
    before = ops.kernel_seconds
    ops.rms_norm(x, weight, 1e-5)
    after = ops.kernel_seconds
    assert 0 <= before < after
    np.sort(np.random.default_rng(0).random(10000))
    assert ops.kernel_seconds == after
