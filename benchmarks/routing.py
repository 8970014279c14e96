"""What recording routes costs: prompts and answers through the engine, with and without, in turn.

python benchmarks/routing.py                          # the pocket model
python benchmarks/routing.py random-8x7b.octuor       # of `octuor synth ... --geometry mixtral-8x7b --layers 4`

Each pair runs the same random ids both ways, the first of the two alternating. Three measures, for others may share the
machine: the least wall time of all runs, which comes nearest to a quiet one; the median of the pairs' ratios of the
process's CPU time, with its quartiles; and recording alone, played again in a loop: microseconds a pass, and their
share of the least wall time.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.api import Model, load
from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Failed, Prompt, Request
from octuor.ops import LayerRouting
from octuor.routing.recording import PassLog
from octuor.sampling import SamplingParams


@dataclass(frozen=True)
class Case:
    """What runs: so many requests at once, each with a prompt and an answer of so many tokens."""

    name: str
    batch: int
    prompt: int
    answer: int


CASES = (
    Case("prompt of 128", 1, 128, 1),
    Case("prompt of 512", 1, 512, 1),
    Case("answer of 64, alone", 1, 16, 64),
    Case("answers of 64, 8 at once", 8, 16, 64),
)


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--pairs", type=int, default=31)
    arguments = parser.parse_args()
    model = load(arguments.model, resident=True)
    engine = Engine(model, EngineSettings(max_batch=8, cache_tokens=4096))
    rng = np.random.default_rng(0)
    print(f"{model.checkpoint.source.name}, {model.config.n_layers} layers; {arguments.pairs} pairs")
    print(f"{'':26} {'least wall, ms':^29} {'CPU time':^26} {'recording alone':>19}")
    print(
        f"{'case':26} {'off':>9} {'on':>9} {'on/off':>9} {'on/off':>9}  {'quartiles':>15} {'us a pass':>9} {'share':>9}"
    )
    for case in CASES:
        _run(engine, case, rng, routes=True)
        pairs = np.array([_pair(engine, case, rng, n % 2 == 0) for n in range(arguments.pairs)])  # [pairs, 2, 2]
        off, on = 1e3 * pairs[:, :, 0].min(axis=0)
        low, middle, high = np.quantile(pairs[:, 1, 1] / pairs[:, 0, 1], (0.25, 0.5, 0.75))
        n_passes = max(case.answer - 1, 1)
        alone = min(_alone(engine, case) for _ in range(5))
        print(
            f"{case.name:26} {off:9.2f} {on:9.2f} {on / off:9.4f} {middle:9.4f}  {low:.4f} - {high:.4f} "
            f"{alone:9.1f} {alone * n_passes / off / 10:7.2f} %",
            flush=True,
        )
    print(f"the last layer's wo and router for all 512 tokens of a prompt: {100 * _last_layer(model, rng):.2f} %")


REPLAYS = 500
Took = tuple[float, float]  # seconds of wall time, and of all threads' CPU time


def _pair(engine: Engine, case: Case, rng: np.random.Generator, off_first: bool) -> tuple[Took, Took]:
    """Without and with."""
    seed = int(rng.integers(1 << 30))
    took = {}
    for routes in (False, True) if off_first else (True, False):
        took[routes] = _run(engine, case, np.random.default_rng(seed), routes=routes)
    return took[False], took[True]


def _run(engine: Engine, case: Case, rng: np.random.Generator, *, routes: bool) -> Took:
    params = SamplingParams(temperature=0, max_tokens=case.answer, min_tokens=case.answer)
    engine.forget_prefixes()
    failed: list[Failed] = []
    began = time.perf_counter(), time.process_time()
    for _ in range(case.batch):
        prompt = Prompt(rng.integers(3, engine.model.config.vocab_size, case.prompt).tolist())
        request = Request(prompt, params, routes=routes)
        engine.submit(request, lambda event: failed.append(event) if isinstance(event, Failed) else None)
    while not engine.is_idle:
        engine.step()
    assert not failed, failed[0].error
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _alone(engine: Engine, case: Case) -> float:
    """Microseconds of CPU time that recording takes in a pass of the case's answers, or of its prompt: played again."""
    config = engine.model.config
    n_tokens = case.prompt if case.answer == 1 else case.batch
    experts = np.zeros((n_tokens, config.n_experts_per_token), np.int32)
    layer = LayerRouting(experts, experts.astype(np.float32), np.zeros((n_tokens, config.n_experts), np.float32))
    began = time.thread_time()
    for _ in range(REPLAYS):
        log = PassLog(engine.model.ops, range(n_tokens), n_tokens)
        for n in range(config.n_layers):
            log(n, layer)
        routes = log.routes()
        for n in range(case.batch):
            _ = routes[n : n + 1]
    return 1e6 * (time.thread_time() - began) / REPLAYS


def _last_layer(model: Model, rng: np.random.Generator, n_tokens: int = 512) -> float:
    """The share of a prompt's pass that wo, norm and router of the last layer take: every prompt pays it."""
    ops, config, layer = model.ops, model.config, model.weights.layers[-1]
    mixed: NDArray[np.float32] = rng.standard_normal((n_tokens, config.n_heads * config.head_dim), dtype=np.float32)
    engine = Engine(model, EngineSettings(max_batch=1, cache_tokens=1024))
    case = Case("", 1, n_tokens, 1)
    shares = []
    for _ in range(15):
        began = time.perf_counter()
        x = ops.rms_norm(ops.linear(mixed, layer.wo), layer.moe_norm, config.norm_eps)
        ops.route(x, layer.router, config.n_experts_per_token)
        shares.append((time.perf_counter() - began) / _run(engine, case, rng, routes=False)[0])
    return float(np.median(shares))


if __name__ == "__main__":
    main()
