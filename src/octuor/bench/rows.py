"""One row of a benchmark: a prompt read as `octuor generate` reads it, or a batch of answers written.

Token ids are random and new each time, so nothing is repeated that a cache could keep. Sampling is not part of a
row, as it is not of other engines' benchmarks: the ids of answers are drawn beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from octuor import model as forward_pass
from octuor.batch import step
from octuor.bench.cost import Cost
from octuor.bench.model import CACHE_DTYPE, BenchModel
from octuor.cache import PAGE_SIZE, KVCache
from octuor.generate import Context, cache_tokens
from octuor.ops import LayerRouting, Ops

ANSWER_START = 16  # tokens that a sequence has before its answer


@dataclass(frozen=True)
class Case:
    """What a row measures.

    tokens  of the prompt, or of each answer
    batch   sequences at once; 1 for a prompt
    """

    kind: Literal["prompt", "answer"]
    tokens: int
    batch: int = 1

    def __str__(self) -> str:
        return f"prompt of {self.tokens}" if self.kind == "prompt" else f"answers, batch {self.batch}"


@dataclass(frozen=True)
class Run:
    """One repeat of a case: seconds, what it met and computed, and bytes of experts that were read meanwhile."""

    seconds: float
    cost: Cost
    read_bytes: int = 0


class _Log:
    """The experts chosen in one forward pass, by layer; what on_route is given."""

    def __init__(self) -> None:
        self.chosen: list[Any] = []

    def __call__(self, layer: int, routing: LayerRouting) -> None:  # noqa: ARG002
        self.chosen.append(routing.experts)


def prepare(model: BenchModel, case: Case, rng: np.random.Generator, ops: Ops | None = None) -> Callable[[], Run]:
    """Draw ids and fill caches; what is returned runs the case once, and only once, and times that.

    ops  another backend that takes the model's weights as they are; None: the model's own
    """
    ops = ops if ops is not None else model.ops
    start = _prompt(model, case, rng, ops) if case.kind == "prompt" else _answer(model, case, rng, ops)
    if (store := model.store) is None:
        return start

    def run() -> Run:
        before = store.stats().read_bytes
        found = start()
        return replace(found, read_bytes=store.stats().read_bytes - before)

    return run


def warm_up(model: BenchModel, case: Case, rng: np.random.Generator) -> None:
    """Run a case's beginning, so that its memory is there and its pages are read."""
    few = min(case.tokens, model.chunk) if case.kind == "prompt" else min(case.tokens, 2)
    prepare(model, Case(case.kind, few, case.batch), rng)()


def _prompt(model: BenchModel, case: Case, rng: np.random.Generator, ops: Ops) -> Callable[[], Run]:
    config, weights = model.config, model.weights
    ids = rng.integers(0, config.vocab_size, case.tokens).tolist()
    context = Context(config, ops, case.tokens, CACHE_DTYPE, model.chunk)
    starts = range(0, case.tokens, model.chunk)
    logs = [_Log() for _ in starts]

    def run() -> Run:
        began = time.perf_counter()
        for start, log in zip(starts, logs, strict=True):
            context.run(ops, weights, config, ids[start : start + model.chunk], log)
        seconds = time.perf_counter() - began
        cost = Cost.none(config)
        for start, log in zip(starts, logs, strict=True):
            n_new = min(model.chunk, case.tokens - start)
            cost.add_step(config, model.sizes, log.chosen, [start], n_new, 1)
        return Run(seconds, cost)

    return run


def _answer(model: BenchModel, case: Case, rng: np.random.Generator, ops: Ops) -> Callable[[], Run]:
    config, weights = model.config, model.weights
    first = rng.integers(0, config.vocab_size, (case.batch, ANSWER_START)).tolist()
    ids = rng.integers(0, config.vocab_size, (case.tokens, case.batch)).tolist()
    each = cache_tokens(config, ANSWER_START + case.tokens) + PAGE_SIZE
    cache = KVCache(config, ops.zeros, case.batch * each, dtype=CACHE_DTYPE)
    sequences = [cache.new() for _ in range(case.batch)]
    forward_pass.forward(ops, weights, config, step(cache, list(zip(sequences, first, strict=True))))
    logs = [_Log() for _ in range(case.tokens)]

    def run() -> Run:
        began = time.perf_counter()
        for row, log in zip(ids, logs, strict=True):
            batch = step(cache, [(sequence, [token]) for sequence, token in zip(sequences, row, strict=True)])
            hidden = forward_pass.forward(ops, weights, config, batch, log)
            ops.to_numpy(forward_pass.logits(ops, weights, hidden))
        seconds = time.perf_counter() - began
        cost = Cost.none(config)
        for n_done, log in enumerate(logs):
            cost.add_step(config, model.sizes, log.chosen, [ANSWER_START + n_done] * case.batch, 1, case.batch)
        return Run(seconds, cost)

    return run
