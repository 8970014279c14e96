"""The loop of a tuning run: rows in, steps, validations, metrics and a state that a killed run goes on from.

A run lives in one directory: state.pt (to resume), best.pt (what was best on the validation rows), metrics.jsonl.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octuor.checkpoint import Checkpoint
from octuor.errors import CheckpointError
from octuor.ops.native import NativeOps
from octuor.train.learner import choose_dtype, write_state
from octuor.train.metrics import MetricsFile, whole_lines
from octuor.tune.data import Dataset
from octuor.tune.events import Events
from octuor.tune.loss import Score
from octuor.tune.plan import Rows, plan_steps, turns
from octuor.tune.recipe import Schedule, TuneRecipe
from octuor.tune.score import F32Array, OnWork, Scorer, Validation, rows_of, turn_of
from octuor.tune.student import Student

STATE, BEST, METRICS = "state.pt", "best.pt", "metrics.jsonl"


@dataclass(frozen=True)
class TuneMetrics:
    """One step, a line of metrics.jsonl.

    tokens           all tokens of all steps so far, prompts included
    loss             mean over the step's answers' tokens, nats; of preferences, over its pairs
    margin           of preferences, mean: beta times how much further the better answer is ahead than the base has it
    accuracy         of preferences: share of pairs in which it has moved ahead
    balance          mean over layers of the load-balancing loss, 1 is even; None where it is not trained on
    tokens_per_s     of this step, optimizer included, validation not
    validation_loss  after this step, where there was one; so validation_margin and validation_accuracy
    """

    step: int
    tokens: int
    loss: float
    margin: float | None
    accuracy: float | None
    balance: float | None
    gradient_norm: float
    learning_rate: float
    tokens_per_s: float
    validation_loss: float | None = None
    validation_margin: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    masters  parameters by name: those of the best validation, else the last
    stopped  whether it ended before its last step, for want of progress
    """

    student: Student
    masters: dict[str, Tensor]
    before: Validation | None
    best: Validation | None
    steps: int
    stopped: bool


def rate_share(step: int, n_steps: int, schedule: Schedule) -> float:
    """Learning rate of `step` (from 0) as a share of its peak: linear warm-up, then the shape."""
    warmup = round(schedule.warmup_share * n_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule.shape]
    return schedule.min_lr_share + (1 - schedule.min_lr_share) * fall


def tune(
    recipe: TuneRecipe,
    checkpoint: Checkpoint,
    data: Dataset,
    out: Path,
    *,
    on_step: Callable[[TuneMetrics, int], None] | None = None,
    on_work: OnWork | None = None,
    threads: int | None = None,
) -> Outcome:
    """Run the recipe, or go on where a run in `out` was stopped, to its last step or to where progress ends.

    on_step  called after each step with its metrics and the number of steps in all
    on_work  called during what is no step: validation, and what the base has to say of preferences

    Stopping it at any time loses at most save_every steps; what is then done again has the same numbers to the last
    bit on the same machine with as many threads.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, checkpoint, data, out, NativeOps(threads=threads), on_work)
    progress = run.resume()
    with (
        MetricsFile(out / METRICS, progress.step) as metrics_file,
        Events(out / "events", progress.step) if recipe.schedule.tensorboard else nullcontext() as events,
    ):
        if progress.step == 0 and data.validation.examples:
            progress.before = progress.best = run.validate()
            run.save_best()
        while progress.step < len(run.steps) and not progress.is_over(recipe.schedule.patience):
            metrics = run.step(progress)
            metrics_file.write(metrics)
            if events is not None:
                events.write(metrics)
            if on_step is not None:
                on_step(metrics, len(run.steps))
            is_last = progress.step == len(run.steps) or progress.is_over(recipe.schedule.patience)
            if progress.step % recipe.schedule.save_every == 0 or is_last:
                metrics_file.sync()
                run.save(progress)
    return run.outcome(progress)


def read_metrics(path: Path) -> list[TuneMetrics]:
    """All whole lines of a run's metrics.jsonl."""
    return [TuneMetrics(**json.loads(line)) for line in whole_lines(path)]


@dataclass
class _Progress:
    """How far a run is; n_worse: validations in a row that were no better than the best."""

    step: int = 0
    tokens: int = 0
    before: Validation | None = None
    best: Validation | None = None
    n_worse: int = 0

    def is_over(self, patience: int) -> bool:
        return 0 < patience <= self.n_worse


class _Run:
    """All that the steps of one run share."""

    def __init__(
        self,
        recipe: TuneRecipe,
        checkpoint: Checkpoint,
        data: Dataset,
        out: Path,
        native: NativeOps,
        on_work: OnWork | None,
    ) -> None:
        schedule = recipe.schedule
        dtype = choose_dtype(schedule.dtype)
        self._recipe, self._schedule, self._data, self._out = recipe, schedule, data, out
        self.student = Student(checkpoint, recipe.tune, schedule, dtype, native, schedule.seed)
        self._scorer = Scorer(checkpoint.config, recipe, dtype, on_work)
        self._lengths = data.train.lengths
        self.steps = plan_steps(self._lengths, schedule)
        self._digest = data.digest
        self._references = self._ask_base() if recipe.preference is not None else {}

    def step(self, progress: _Progress) -> TuneMetrics:
        """Take the next step, and validate after it where one is due."""
        began, number = time.perf_counter(), progress.step
        torch.manual_seed(self._schedule.seed * len(self.steps) + number)  # of dropout, whatever ran before
        scores, balance, n_tokens = self._gradients(self.steps[number])
        share = rate_share(number, len(self.steps), self._schedule)
        norm = self.student.learner.step(share)
        seconds = time.perf_counter() - began
        progress.step += 1
        progress.tokens += n_tokens
        mean, found = self._scorer.mean(scores), self._validate_if_due(progress)
        return TuneMetrics(
            step=progress.step, tokens=progress.tokens, loss=mean.loss, margin=mean.margin, accuracy=mean.accuracy,
            balance=balance, gradient_norm=norm, learning_rate=share * self._schedule.learning_rate,
            tokens_per_s=n_tokens / seconds,
            **({} if found is None else {f"validation_{name}": value for name, value in asdict(found).items()}),
        )  # fmt: skip

    def validate(self) -> Validation:
        """Score all validation rows as the student stands."""
        references = self._references.get("validation")
        return self._scorer.validate(self.student.settled, self._data.validation, references)

    def resume(self) -> _Progress:
        """Take the state that a run in this directory left, if it is this recipe's; else begin."""
        path = self._out / STATE
        if not path.is_file():
            return _Progress()
        saved = torch.load(path, weights_only=True)
        if saved["recipe"] != self._recipe.decisive() or saved["data"] != self._digest:
            raise CheckpointError(f"{path}: expected a run of this recipe and data, found another; use another --out")
        self.student.learner.restore(saved)
        before, best = (None if value is None else Validation(**value) for value in (saved["before"], saved["best"]))
        return _Progress(saved["step"], saved["tokens"], before, best, saved["n_worse"])

    def save(self, progress: _Progress) -> None:
        """Write all that decides what comes next, at once or not at all."""
        before, best = (None if v is None else asdict(v) for v in (progress.before, progress.best))
        values: dict[str, Any] = {
            "recipe": self._recipe.decisive(), "data": self._digest, "step": progress.step, "tokens": progress.tokens,
            "before": before, "best": best, "n_worse": progress.n_worse, **self.student.learner.snapshot(),
        }  # fmt: skip
        write_state(self._out / STATE, values)

    def save_best(self) -> None:
        """Keep the parameters as they are."""
        write_state(self._out / BEST, self.student.learner.masters)

    def outcome(self, progress: _Progress) -> Outcome:
        """The best of what the run has been, or the last."""
        best = self._out / BEST
        masters = torch.load(best, weights_only=True) if progress.best is not None else self.student.learner.masters
        stopped = progress.step < len(self.steps)
        return Outcome(self.student, masters, progress.before, progress.best, progress.step, stopped)

    def _gradients(self, rows: Rows) -> tuple[list[Score], float | None, int]:
        """Gather a step's gradients, turn by turn; returns its scores, the load-balancing loss and its tokens.

        Every answer's token, or pair, of the step counts alike, whichever turn it is in.
        """
        parts = turns(rows, self._lengths, self._schedule.tokens_at_once)
        made = [turn_of(self._data.train.examples, part) for part in parts]
        has_pairs = self._recipe.preference is not None
        n_units = len(rows) if has_pairs else sum(len(turn.rows) for turn in made)
        n_tokens = sum(len(turn.batch.tokens) for turn in made)
        scores, balance = [], 0.0
        for part, turn in zip(parts, made, strict=True):
            score, of_layers = self._scorer.score(
                self.student.weights, turn, rows_of(self._references.get("train"), part)
            )
            loss = score.loss / n_units
            if of_layers is not None:
                share = len(turn.batch.tokens) / n_tokens
                loss = loss + self._schedule.balance * share * of_layers
                balance += share * float(of_layers.detach())
            loss.backward()  # type: ignore[no-untyped-call]
            scores.append(Score(score.n, score.loss.detach(), score.margin, score.n_right))
        return scores, balance if self._scorer.is_balanced else None, n_tokens

    def _validate_if_due(self, progress: _Progress) -> Validation | None:
        is_due = progress.step % self._schedule.validate_every == 0 or progress.step == len(self.steps)
        if not is_due or not self._data.validation.examples:
            return None
        found = self.validate()
        assert progress.best is not None
        if found.loss < progress.best.loss:
            progress.best, progress.n_worse = found, 0
            self.save_best()
        else:
            progress.n_worse += 1
        return found

    def _ask_base(self) -> dict[str, F32Array]:
        """The base's log-probability of each answer that the run needs; asked once, and kept for a resumed run."""
        path = self._out / "reference.npz"
        wanted = {
            "train": np.unique(np.concatenate(self.steps)),
            "validation": np.arange(len(self._data.validation.examples)),
        }
        if path.is_file():
            with np.load(path) as kept:
                same = str(kept["digest"]) == self._digest
                if same and not any(np.isnan(kept[name][rows]).any() for name, rows in wanted.items()):
                    return {name: kept[name] for name in wanted}
        splits = {"train": self._data.train, "validation": self._data.validation}
        found = {name: self._scorer.references(self.student.base, splits[name], rows) for name, rows in wanted.items()}
        partial = path.with_name("reference.partial.npz")
        np.savez(partial, digest=np.array(self._digest), train=found["train"], validation=found["validation"])
        partial.replace(path)
        return found
