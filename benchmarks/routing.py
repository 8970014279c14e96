"""What recording routes costs: steps of the engine, with and without, in turn.

python benchmarks/routing.py                          # the pocket model
python benchmarks/routing.py random-8x7b.octuor       # of `octuor synth ... --geometry mixtral-8x7b --layers 2`

A row compares steps of the engine (a whole prompt; a token of each answer), recorded or not by lot, so that both meet
the same machine: medians of the process's CPU time on one thread, which others' work lengthens least, with the error
of their ratio from resampling. Beside it, played again in a loop, what it takes to copy out a step's routes: a part of
the step for prompts; for answers it is the caller's, who does it when it looks at them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.api import Model, load
from octuor.engine.engine import Engine, EngineSettings, StepReport
from octuor.engine.request import Failed, Prompt, Request
from octuor.engine.sequence import Sequence
from octuor.ops import LayerRouting
from octuor.routing.recording import PassLog
from octuor.sampling import SamplingParams

RESAMPLED = 400
REPLAYS = 500


@dataclass(frozen=True)
class Case:
    """What runs: so many requests at once, each with a prompt and an answer of so many tokens, so many times."""

    name: str
    batch: int
    prompt: int
    answer: int
    times: int


CASES = (
    Case("prompt of 128", 1, 128, 1, 300),
    Case("prompt of 512", 1, 512, 1, 100),
    Case("answer, alone", 1, 16, 257, 16),
    Case("answers, 8 at once", 8, 16, 129, 12),
)


class Clock:
    """The engine's on_step: CPU seconds of the steps of one kind, without and with, and whose turn it is.

    sequences  that run, whose next step is to be recorded or not
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.seconds: tuple[list[float], list[float]] = ([], [])
        self.is_prompt = False
        self.is_on = False
        self.sequences: list[Sequence] = []
        self.began = 0.0
        self._rng = rng

    def __call__(self, report: StepReport) -> None:
        now = time.process_time()
        if self.is_prompt == (report.n_decoding == 0):
            self.seconds[self.is_on].append(now - self.began)
            self.is_on = bool(self._rng.random() < 0.5)
        for sequence in self.sequences:
            sequence.is_recorded = self.is_on
        self.began = time.process_time()


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--share", type=float, default=1.0, help="of the times that each case runs")
    arguments = parser.parse_args()
    model, clock = load(arguments.model, resident=True, threads=1), Clock(np.random.default_rng(1))
    engine = Engine(model, EngineSettings(max_batch=8, cache_tokens=4096), on_step=clock)
    clock.sequences = engine._scheduler.running  # the list itself, which changes
    rng = np.random.default_rng(0)
    print(f"{model.checkpoint.source.name}, {model.config.n_layers} layers")
    print(f"{'case':20} {'steps':>6} {'off, ms':>9} {'on, ms':>9} {'on/off':>8}            {'copying, us':>12}")
    for case in CASES:
        off, on = _steps(engine, clock, case, rng, max(3, round(arguments.share * case.times)))
        without, with_ = 1e3 * np.median(off), 1e3 * np.median(on)
        ratios = [np.median(rng.choice(on, len(on))) / np.median(rng.choice(off, len(off))) for _ in range(RESAMPLED)]
        copying = min(_copying(model, case) for _ in range(5))
        ratio = f"{with_ / without:8.4f} ± {np.std(ratios):.4f}"
        print(f"{case.name:20} {len(on) + len(off):6} {without:9.3f} {with_:9.3f} {ratio} {copying:12.1f}", flush=True)
    share = _last_layer(engine, clock, rng)
    print(f"the last layer's wo and router for all 512 tokens of a prompt, if recorded: {100 * share:.2f} %")


def _steps(
    engine: Engine, clock: Clock, case: Case, rng: np.random.Generator, times: int
) -> tuple[list[float], list[float]]:
    """Seconds of steps, without and with."""
    clock.is_prompt = case.answer == 1
    _run(engine, clock, case, rng, routes=True)
    clock.seconds, clock.is_on = ([], []), False
    for n in range(times):
        _run(engine, clock, case, np.random.default_rng(n // 2), routes=clock.is_on if clock.is_prompt else True)
    return clock.seconds


def _run(engine: Engine, clock: Clock, case: Case, rng: np.random.Generator, *, routes: bool) -> None:
    params = SamplingParams(temperature=0, max_tokens=case.answer, min_tokens=case.answer)
    engine.forget_prefixes()
    failed: list[Failed] = []
    clock.began = time.process_time()
    for _ in range(case.batch):
        prompt = Prompt(rng.integers(3, engine.model.config.vocab_size, case.prompt).tolist())
        request = Request(prompt, params, routes=routes)
        engine.submit(request, lambda event: failed.append(event) if isinstance(event, Failed) else None)
    while not engine.is_idle:
        engine.step()
    assert not failed, failed[0].error


def _copying(model: Model, case: Case) -> float:
    """Microseconds of CPU time to copy out what a step of the case recorded, played again."""
    config = model.config
    n_tokens = case.prompt if case.answer == 1 else 1
    experts = np.zeros((n_tokens, config.n_experts_per_token), np.int32)
    layer = LayerRouting(experts, experts.astype(np.float32), np.zeros((n_tokens, config.n_experts), np.float32))
    began = time.thread_time()
    for _ in range(REPLAYS):
        log = PassLog(model.ops)
        for n in range(config.n_layers):
            log(n, layer)
        routes = log.routes(range(n_tokens))
        _ = routes.experts, routes.weights
    return 1e6 * case.batch * (time.thread_time() - began) / REPLAYS


def _last_layer(engine: Engine, clock: Clock, rng: np.random.Generator, n_tokens: int = 512) -> float:
    """The share of a prompt's step that wo, norm and router of the last layer take: recording pays it."""
    ops, config, layer = engine.model.ops, engine.model.config, engine.model.weights.layers[-1]
    mixed: NDArray[np.float32] = rng.standard_normal((n_tokens, config.n_heads * config.head_dim), dtype=np.float32)
    clock.is_prompt, clock.seconds = True, ([], [])
    took = []
    for _ in range(20):
        began = time.process_time()
        x = ops.rms_norm(ops.linear(mixed, layer.wo), layer.moe_norm, config.norm_eps)
        ops.route(x, layer.router, config.n_experts_per_token)
        took.append(time.process_time() - began)
        _run(engine, clock, Case("", 1, n_tokens, 1, 1), rng, routes=clock.is_on)
    return float(np.median(took) / np.median([*clock.seconds[0], *clock.seconds[1]]))


if __name__ == "__main__":
    main()
