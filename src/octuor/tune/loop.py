"""The loop of a tuning run: rows in, steps, validations, metrics and a state that a killed run goes on from.

A run lives in one directory: state.pt (to resume), best.pt (what was best on the validation rows), metrics.jsonl.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octuor.checkpoint import Checkpoint
from octuor.errors import CheckpointError
from octuor.ops.native import NativeOps
from octuor.ops.torch import TorchOps
from octuor.train.learner import choose_dtype, write_state
from octuor.train.metrics import MetricsFile, whole_lines
from octuor.tune.data import Dataset
from octuor.tune.encode import Example
from octuor.tune.events import Events
from octuor.tune.forward import Turn, hidden_states, make_turn
from octuor.tune.loss import Score, answers_score, log_probabilities, preference_score
from octuor.tune.plan import Rows, plan_steps, turns
from octuor.tune.recipe import Schedule, TuneRecipe
from octuor.tune.student import Student
from octuor.weights import Weights

STATE, BEST, METRICS = "state.pt", "best.pt", "metrics.jsonl"
OnWork = Callable[[str, int, int], None]  # what is at work, done and in all


@dataclass(frozen=True)
class Validation:
    """Means over the validation rows; margin and accuracy of preferences only."""

    loss: float
    margin: float | None = None
    accuracy: float | None = None


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
        self._recipe, self._schedule, self._data, self._out, self._on_work = recipe, schedule, data, out, on_work
        self.student = Student(checkpoint, recipe.tune, schedule, dtype, native, schedule.seed)
        self._ops = TorchOps(dtype=dtype)
        self._lengths = data.train.lengths
        self.steps = plan_steps(self._lengths, schedule)
        self._balanced = recipe.tune.learns_routing and schedule.balance > 0
        self._digest = data.digest
        self._references = self._ask_base() if recipe.preference is not None else {}

    def step(self, progress: _Progress) -> TuneMetrics:
        """Take the next step, and validate after it where one is due."""
        began, schedule, number = time.perf_counter(), self._schedule, progress.step
        torch.manual_seed(schedule.seed * len(self.steps) + number)  # of dropout, whatever ran before
        rows = self.steps[number]
        parts = turns(rows, self._lengths, schedule.tokens_at_once)
        made = [self._turn(self._data.train.examples, part) for part in parts]
        n_units = sum(
            len(part) if self._recipe.preference else len(turn.rows) for part, turn in zip(parts, made, strict=True)
        )
        n_tokens = sum(len(turn.batch.tokens) for turn in made)
        scores, balance = [], 0.0
        for part, turn in zip(parts, made, strict=True):
            score, of_layers = self._score(self.student.weights, turn, self._reference("train", part))
            loss = score.loss / n_units
            if of_layers is not None:
                share = len(turn.batch.tokens) / n_tokens
                loss = loss + schedule.balance * share * of_layers
                balance += share * float(of_layers.detach())
            loss.backward()  # type: ignore[no-untyped-call]
            scores.append(Score(score.n, score.loss.detach(), score.margin, score.n_right))
        share = rate_share(number, len(self.steps), schedule)
        norm = self.student.learner.step(share)
        seconds = time.perf_counter() - began
        progress.step += 1
        progress.tokens += n_tokens
        found = self._validate_if_due(progress)
        mean = self._mean(scores)
        return TuneMetrics(
            step=progress.step, tokens=progress.tokens, loss=mean.loss, margin=mean.margin, accuracy=mean.accuracy,
            balance=balance if self._balanced else None, gradient_norm=norm,
            learning_rate=share * schedule.learning_rate, tokens_per_s=n_tokens / seconds,
            **({} if found is None else {f"validation_{name}": value for name, value in asdict(found).items()}),
        )  # fmt: skip

    def validate(self) -> Validation:
        """Score all validation rows as the student stands."""
        return self._mean(self._scores(self.student.settled, "validation", "validating"))

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

    def _turn(self, examples: Sequence[Example], rows: Rows) -> Turn:
        return make_turn([piece for row in rows.tolist() for piece in examples[row].pieces])

    def _score(self, weights: Weights, turn: Turn, reference: Tensor | None) -> tuple[Score, Tensor | None]:
        learns = torch.is_grad_enabled()
        hidden, balance = hidden_states(
            self._ops, weights, self.student.config, turn, checkpointing=learns and self._schedule.checkpointing,
            balanced=learns and self._balanced,
        )  # fmt: skip
        log_p = log_probabilities(hidden, weights.lm_head, turn.targets, self._schedule.head_rows)
        if reference is None or self._recipe.preference is None:
            return answers_score(log_p), balance
        return preference_score(log_p, turn.owners, reference, self._recipe.preference), balance

    @torch.no_grad()
    def _scores(self, weights: Weights, name: str, what: str) -> list[Score]:
        split = getattr(self._data, name)
        lengths, scores, done = split.lengths, [], 0
        for part in turns(np.arange(len(lengths)), lengths, self._schedule.tokens_at_once):
            scores.append(self._score(weights, self._turn(split.examples, part), self._reference(name, part))[0])
            done += len(part)
            if self._on_work is not None:
                self._on_work(what, done, len(lengths))
        return scores

    def _mean(self, scores: Sequence[Score]) -> Validation:
        n = sum(score.n for score in scores)
        loss = float(sum(float(score.loss) for score in scores)) / n
        if self._recipe.preference is None:
            return Validation(loss)
        return Validation(loss, sum(score.margin for score in scores) / n, sum(score.n_right for score in scores) / n)

    def _reference(self, name: str, rows: Rows) -> Tensor | None:
        if not self._references:
            return None
        return torch.from_numpy(self._references[name][rows].reshape(-1))

    @torch.no_grad()
    def _ask_base(self) -> dict[str, NDArray[np.float32]]:
        """The base's log-probability of each answer, [rows, 2] for each part; asked once, before anything learns."""
        path = self._out / "reference.npz"
        if path.is_file():
            with np.load(path) as kept:
                if str(kept["digest"]) == self._digest:
                    return {name: kept[name] for name in ("train", "validation")}
        found = {}
        for name in ("train", "validation"):
            split = getattr(self._data, name)
            values = np.zeros((len(split.examples), 2), dtype=np.float32)
            for part in turns(np.arange(len(values)), split.lengths, self._schedule.tokens_at_once):
                turn = self._turn(split.examples, part)
                hidden, _ = hidden_states(
                    self._ops, self.student.base, self.student.config, turn, checkpointing=False, balanced=False
                )
                log_p = log_probabilities(hidden, self.student.base.lm_head, turn.targets, self._schedule.head_rows)
                sums = torch.zeros(turn.n_sequences).index_add(0, turn.owners, log_p)
                values[part] = sums.numpy().reshape(-1, 2)
                if self._on_work is not None:
                    self._on_work("asking the base", int(part[-1]) + 1, len(values))
            found[name] = values
        partial = path.with_name("reference.partial.npz")
        np.savez(partial, digest=np.array(self._digest), train=found["train"], validation=found["validation"])
        partial.replace(path)
        return found
