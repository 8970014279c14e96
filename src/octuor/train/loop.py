"""The training loop: rows in, steps of the same model.py forward pass, metrics and checkpoints out.

A run lives in one directory: tokens/ (tokenized sources), state.pt (to resume), metrics.jsonl, loss.png.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from octuor import model
from octuor.batch import whole
from octuor.errors import ConfigError
from octuor.ops import LayerRouting
from octuor.ops.torch import TorchOps
from octuor.tokenizer import Tokenizer
from octuor.train.data import TokenStream, load_sources
from octuor.train.loss import balance_loss, draw_candidates, next_token_loss
from octuor.train.metrics import MetricsFile, whole_lines
from octuor.train.recipe import Recipe, Schedule
from octuor.train.state import TrainState


@dataclass(frozen=True)
class StepMetrics:
    """One step, a line of metrics.jsonl.

    loss          mean cross-entropy of the learned tokens, nats
    balance       mean over layers of the load-balancing loss; 1 is even
    least_load    smallest share of choices that any expert of any layer got
    tokens        all tokens trained on so far
    tokens_per_s  of this step, optimizer included
    """

    step: int
    tokens: int
    loss: float
    balance: float
    least_load: float
    gradient_norm: float
    learning_rate: float
    tokens_per_s: float


def rate_share(step: int, schedule: Schedule) -> float:
    """Learning rate of `step` (from 0) as a share of its peak: linear warm-up, the peak, then a cosine."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    n_falling = schedule.decay_share * max(1, schedule.steps - schedule.warmup_steps)
    done = max(0.0, 1 - (schedule.steps - step) / n_falling)
    return schedule.min_lr_share + (1 - schedule.min_lr_share) * 0.5 * (1 + math.cos(math.pi * done))


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    tokenizer: Tokenizer,
    *,
    on_source: Callable[[str, int], None] | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
    threads: int | None = None,
) -> TrainState:
    """Train from the recipe, or from where a run in `out` was stopped, to the recipe's last step.

    Stopping it at any time loses at most save_every steps; the resumed run sees the rows that the
    unbroken one would have seen.
    """
    if tokenizer.n_words > recipe.model.vocab_size:
        raise ConfigError(
            f"recipe [model] vocab_size: expected at least the tokenizer's {tokenizer.n_words}, "
            f"found {recipe.model.vocab_size}"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    schedule = recipe.schedule
    state = TrainState(recipe)
    sources = load_sources(recipe, data, tokenizer, out / "tokens", on_source)
    stream = TokenStream(sources, recipe.stages, schedule.seq_len, schedule.seed)
    first = 0
    if (out / "state.pt").is_file():
        first, stream_state = state.load(out / "state.pt")
        stream.restore(stream_state)
    ops = TorchOps(dtype=state.dtype)
    with MetricsFile(out / "metrics.jsonl", first) as metrics_file:
        for step in range(first, schedule.steps):
            metrics = train_step(recipe, state, ops, stream, step)
            metrics_file.write(metrics)
            if on_step is not None:
                on_step(metrics)
            if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
                metrics_file.sync()
                state.save(out / "state.pt", step + 1, stream.state())
    return state


def train_step(recipe: Recipe, state: TrainState, ops: TorchOps, stream: TokenStream, step: int) -> StepMetrics:
    """Take the next rows from the stream and update the state; `step` counts from 0."""
    began = time.perf_counter()
    schedule = recipe.schedule
    stage = recipe.stage_at(step)
    rows = [stream.row(stage) for _ in range(schedule.sequences_per_step)]
    ids = np.stack([row[0] for row in rows])
    batch = whole(list(ids[:, :-1]))
    targets = torch.from_numpy(ids[:, 1:].reshape(-1).astype(np.int64))
    learned = torch.from_numpy(np.concatenate([row[1] for row in rows]))
    balance: list[torch.Tensor] = []
    least_load: list[float] = []

    def watch(_: int, routing: LayerRouting) -> None:
        if recipe.model.is_dense:
            return
        balance.append(balance_loss(routing))
        load = torch.bincount(routing.experts.reshape(-1), minlength=recipe.model.n_experts)
        least_load.append(float(load.min()) / routing.experts.numel())

    weights = state.weights
    hidden = model.forward(ops, weights, recipe.model, batch, watch)
    candidates = None
    if schedule.sampled_words:
        seed = schedule.seed + step
        candidates = draw_candidates(targets[learned], recipe.model.vocab_size, schedule.sampled_words, seed)
    loss = next_token_loss(hidden, weights.lm_head, targets, learned, schedule.loss_chunk, candidates)
    mean_balance = torch.stack(balance).mean() if balance else torch.ones(())
    (loss + schedule.balance * mean_balance).backward()  # type: ignore[no-untyped-call]
    share = rate_share(step, schedule)
    norm = state.step(share)
    return StepMetrics(
        step=step + 1,
        tokens=(step + 1) * schedule.tokens_per_step,
        loss=float(loss.detach()),
        balance=float(mean_balance.detach()),
        least_load=min(least_load, default=1.0),
        gradient_norm=norm,
        learning_rate=share * schedule.learning_rate,
        tokens_per_s=schedule.tokens_per_step / (time.perf_counter() - began),
    )


def read_metrics(path: Path) -> list[StepMetrics]:
    """All whole lines of a run's metrics.jsonl."""
    return [StepMetrics(**json.loads(line)) for line in whole_lines(path)]
