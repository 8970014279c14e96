"""Short runs that differ in their learning rate alone, and which rate they speak for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from octuor.checkpoint import Checkpoint
from octuor.tune.data import Dataset
from octuor.tune.loop import METRICS, TuneMetrics, read_metrics, tune
from octuor.tune.recipe import TuneRecipe
from octuor.tune.score import OnWork

LAST_SHARE = 0.25  # of a run's steps, whose mean is its loss


@dataclass(frozen=True)
class Trial:
    """One learning rate's run.

    loss        mean of its last steps; of steps it had not
    validation  loss on the validation rows after the last step; None where there are none
    """

    learning_rate: float
    losses: list[float]
    loss: float
    validation: float | None

    @property
    def score(self) -> float:
        """What trials are compared by; infinite where the run fell apart."""
        found = self.loss if self.validation is None else self.validation
        return found if math.isfinite(found) else math.inf


def sweep(
    recipe: TuneRecipe,
    checkpoint: Checkpoint,
    data: Dataset,
    out: Path,
    *,
    on_step: Callable[[float, TuneMetrics, int], None] | None = None,
    on_work: OnWork | None = None,
    threads: int | None = None,
) -> list[Trial]:
    """Run every rate of the recipe's [sweep] in out/RATE, lowest first; runs that were stopped go on.

    on_step  called with the rate, and as in `tune`
    """
    steps = recipe.sweep.steps
    trials = []
    for rate in sorted(recipe.sweep.learning_rates):
        schedule = replace(
            recipe.schedule, steps=steps, learning_rate=rate, validate_every=steps, patience=0, tensorboard=False
        )

        def watch(metrics: TuneMetrics, total: int, rate: float = rate) -> None:
            if on_step is not None:
                on_step(rate, metrics, total)

        folder = out / f"{rate:g}"
        tune(
            replace(recipe, schedule=schedule), checkpoint, data, folder, on_step=watch, on_work=on_work,
            threads=threads,
        )  # fmt: skip
        rows = read_metrics(folder / METRICS)
        last = [row.loss for row in rows[-max(1, round(LAST_SHARE * len(rows))) :]]
        trials.append(Trial(rate, [row.loss for row in rows], sum(last) / len(last), rows[-1].validation_loss))
    return trials


def recommend(trials: list[Trial]) -> tuple[Trial, str]:
    """The trial with the lowest loss, and what to think of it; trials are in the order of their rates."""
    best = min(trials, key=lambda trial: trial.score)
    if best.score == math.inf:
        return best, "every run fell apart: try lower rates"
    if best is trials[-1] and len(trials) > 1:
        return best, "the highest rate tried: try higher ones"
    if best is trials[0] and len(trials) > 1:
        return best, "the lowest rate tried: try lower ones"
    return best, "lower and higher rates are worse"


def table(trials: list[Trial]) -> str:
    """The trials as text."""
    best, _ = recommend(trials)
    lines = [f"{'learning rate':>13}  {'loss':>8}  {'validation':>10}"]
    for trial in trials:
        validation = "-" if trial.validation is None else f"{trial.validation:.4f}"
        mark = "  ← lowest" if trial is best else ""
        lines.append(f"{trial.learning_rate:>13g}  {trial.loss:>8.4f}  {validation:>10}{mark}")
    return "\n".join(lines)
