"""How near the kernels come to the machine's limits, at the shapes of Mixtral 8x7B.

    python benchmarks/kernels.py [--isa NAME] [--formats q4,bf16] [--threads N] [--tokens 1,8,128]

Every row is one layer's experts (moe, 2 of 8 a token, routed at random) or one matrix (linear, F x D) with weights
that no cache holds. GB/s counts the stored bytes of the experts or matrices met, GOP/s two operations a weight and
token. "share" is GB/s over what a bare read of memory reached just before. Medians; warm-up excluded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, median
from typing import Any

import numpy as np

from octuor.bench.memory import Arena, room
from octuor.config import MIXTRAL_8X7B as MIXTRAL
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps, implementations
from octuor.quant import FORMATS, Format
from octuor.quant.plain import to_bf16
from octuor.weights import Expert, Weight

D, F, E, A = MIXTRAL.dim, MIXTRAL.hidden_dim, MIXTRAL.n_experts, MIXTRAL.n_experts_per_token
SECONDS, FEWEST = 1.0, 5  # a row lasts this long, and has at least so many repeats


def random_weight(rng: np.random.Generator, row: Format, out: int, inputs: int) -> Weight:
    """Stored bytes drawn directly, in no time; numbers of the order of 1 / sqrt(inputs). They lie as in a pack."""
    n_bytes = row.n_bytes((out, inputs))
    data = Arena(room(n_bytes)).take(n_bytes)
    data[:] = rng.integers(0, 256, n_bytes, dtype=np.uint8)
    data = data.view(row.dtype).reshape(row.storage_shape((out, inputs)))
    scale = np.float32(1 / (40 * np.sqrt(inputs)))
    if row.is_tiled:
        data[..., : 2 * row.tile_rows] = to_bf16(np.full(row.tile_rows, scale)).view(np.uint8)
    else:
        block = row.quantize(rng.standard_normal(1 << 16).astype(np.float32) * scale)
        data.reshape(-1)[:] = np.resize(block, data.size)
    return Weight(data, (out, inputs), row)


def timed(call: Callable[[int], None]) -> float:
    """Median seconds of call(0), call(1), ..."""
    call(0)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < FEWEST or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        call(1 + len(times))
        times.append(time.perf_counter() - start)
    return median(times)


def routing(rng: np.random.Generator, n_tokens: int) -> LayerRouting:
    experts = np.argsort(rng.random((n_tokens, E)), axis=1)[:, :A].astype(np.int32)
    weights = np.full((n_tokens, A), 1 / A, dtype=np.float32)
    return LayerRouting(experts, weights, np.zeros((n_tokens, E), dtype=np.float32))


def call_moe(ops: NativeOps, x: Any, routings: Sequence[LayerRouting], experts: Sequence[Expert], i: int) -> None:
    ops.moe(x, routings[i % len(routings)], experts)


def call_linear(ops: NativeOps, x: Any, matrices: Sequence[Any], i: int) -> None:
    ops.linear(x, matrices[i % len(matrices)])


def measure(
    ops: NativeOps, what: str, row: Format, n_tokens: int, call: Callable[[int], None], n_bytes: float, n_ops: float
) -> None:
    limit = ops.read_bandwidth_gb_s()
    seconds = timed(call)
    rate = n_bytes / seconds / 1e9
    print(
        f"{ops.isa:11} {what:7} {row.name:5} {n_tokens:5} {1e3 * seconds:10.3f} {rate:8.1f} {limit:8.1f} "
        f"{rate / limit:7.0%} {n_ops / seconds / 1e9:9.0f}",
        flush=True,
    )


def run(ops: NativeOps, row: Format, tokens: list[int], rng: np.random.Generator) -> None:
    weights = [[random_weight(rng, row, *shape) for shape in ((F, D), (F, D), (D, F))] for _ in range(E)]
    experts = [Expert(*(ops.put(weight) for weight in parts)) for parts in weights]
    matrix_bytes = row.n_bytes((F, D))
    matrices = [matrix for expert in experts for matrix in (expert.gate, expert.up)]
    for n_tokens in tokens:
        x = rng.standard_normal((n_tokens, D)).astype(np.float32)
        routings = [routing(rng, n_tokens) for _ in range(16)]
        n_met = mean(len(np.unique(r.experts)) for r in routings)
        moe = partial(call_moe, ops, x, routings, experts)
        measure(ops, "moe", row, n_tokens, moe, n_met * 3 * matrix_bytes, 2.0 * n_tokens * A * 3 * D * F)
        linear = partial(call_linear, ops, x, matrices)
        measure(ops, "linear", row, n_tokens, linear, matrix_bytes, 2.0 * n_tokens * D * F)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", action="append", help="repeatable; default: all that this machine has")
    parser.add_argument("--formats", default="q4,q8,bf16", help="default %(default)s")
    parser.add_argument("--tokens", default="1,4,8,32,128,512", help="default %(default)s")
    parser.add_argument("--threads", type=int, help="default: the CPUs this process may use")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'isa':11} {'op':7} {'fmt':5} {'T':>5} {'ms':>10} {'GB/s':>8} {'read':>8} {'share':>7} {'GOP/s':>9}")
    for isa in args.isa or [name for name in implementations() if name != "scalar"]:
        ops = NativeOps(isa, args.threads)
        for name in args.formats.split(","):
            run(ops, FORMATS[name], [int(n) for n in args.tokens.split(",")], rng)


if __name__ == "__main__":
    main()
