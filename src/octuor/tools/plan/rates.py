"""How fast this machine runs a layer of a model's shape, format by format: measured in a minute, on random weights.

One layer with the experts that one token meets stands for all: an answer's token reads just these weights, and a
prompt of PROMPT tokens here meets each expert as often as one of PROMPT * n_experts / n_experts_per_token does in the
whole model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from octuor.batch import step
from octuor.bench.model import SPARE_BYTES, BenchModel, random_model
from octuor.bench.rows import Case, prepare, warm_up
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.machine import available_bytes
from octuor.model import forward
from octuor.ops.native import PROBE_BYTES, NativeOps
from octuor.quant import find_format
from octuor.tools.plan.disk import DiskSpeed, measure_disk

PROMPT = 128  # tokens: of 8 experts with 2 a token, what a prompt of 512 gives each
ANSWER = 12  # tokens
REPEATS = 3

OnStep = Callable[[str, int, int], None]  # what comes next, steps done, steps in all


@dataclass(frozen=True)
class LayerRate:
    """One number format's speed.

    answer_s  seconds that one token takes in one layer, weights read from memory
    prompt_s  seconds that one token of a long prompt takes in one layer
    head_s    seconds that norm and lm_head take for one token
    """

    answer_s: float
    prompt_s: float
    head_s: float


@dataclass(frozen=True)
class Rates:
    """What was measured: each format's LayerRate by name, memory and disk in 1e9 bytes a second."""

    layers: dict[str, LayerRate]
    read_gb_per_s: float
    disk: DiskSpeed | None


def measure_rates(
    config: ModelConfig, formats: Sequence[str], folder: Path | None, on_step: OnStep | None = None
) -> Rates:
    """Measure each format that has room in memory for a layer; others are left out.

    folder  where the model will lie: its disk is measured; None: no disk
    """
    ops = NativeOps()
    small = replace(config, n_layers=1, n_experts=config.n_experts_per_token, sliding_window=None)
    steps = [*formats, "disk"]

    def tell(n: int) -> None:
        if on_step is not None:
            on_step(steps[n] if n < len(steps) else "done", n, len(steps))

    rates = {}
    for n, name in enumerate(formats):
        tell(n)
        if small.n_params * find_format(name).bits / 8 + SPARE_BYTES < available_bytes():
            rates[name] = _measure(random_model(small, name, ops))
    tell(len(formats))
    disk = None if folder is None else measure_disk(folder)
    tell(len(steps))
    return Rates(rates, ops.read_bandwidth_gb_s(PROBE_BYTES), disk)


def _measure(model: BenchModel) -> LayerRate:
    head = _head_seconds(model)
    return LayerRate(max(_answer_seconds(model) - head, 0.0), _prompt_seconds(model), head)


def _answer_seconds(model: BenchModel) -> float:
    rng = np.random.default_rng(0)
    case = Case("answer", ANSWER)
    warm_up(model, case, rng)
    return median(prepare(model, case, rng)().seconds for _ in range(REPEATS)) / ANSWER


def _prompt_seconds(model: BenchModel) -> float:
    """Of one token; all rows are asked for, or the only layer would leave its experts out for all but the last."""
    rng = np.random.default_rng(0)
    taken = []
    for _ in range(REPEATS + 1):
        cache = KVCache(model.config, model.ops.zeros, PROMPT)
        batch = step(cache, [(cache.new(), rng.integers(0, model.config.vocab_size, PROMPT).tolist())])
        began = time.perf_counter()
        forward(model.ops, model.weights, model.config, batch)
        taken.append(time.perf_counter() - began)
    return median(taken[1:]) / PROMPT


def _head_seconds(model: BenchModel) -> float:
    x = np.ones((1, model.config.dim), dtype=np.float32)
    taken = []
    for _ in range(2 * REPEATS):
        began = time.perf_counter()
        model.ops.linear(model.ops.rms_norm(x, model.weights.norm, model.config.norm_eps), model.weights.lm_head)
        taken.append(time.perf_counter() - began)
    return median(taken[REPEATS:])
