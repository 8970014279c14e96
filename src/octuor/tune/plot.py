"""Pictures of a tuning run and of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octuor.tune.loop import TuneMetrics
from octuor.tune.score import Validation
from octuor.tune.sweep import Trial

SMOOTHED_STEPS = 10


def plot_run(rows: Sequence[TuneMetrics], before: Validation | None, out: Path) -> None:
    """Draw the loss of each step, its running mean and the validation losses; below, margins or the learning rate."""
    figure = _figure()
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    steps, losses = [row.step for row in rows], [row.loss for row in rows]
    width = min(SMOOTHED_STEPS, len(rows))
    upper.plot(steps, losses, color="0.8", linewidth=0.7)
    upper.plot(steps[width - 1 :], np.convolve(losses, np.ones(width) / width, mode="valid"), label="training")
    found = [(row.step, row.validation_loss) for row in rows if row.validation_loss is not None]
    if before is not None:
        found.insert(0, (0, before.loss))
    if found:
        upper.plot(*zip(*found, strict=True), marker="o", label="validation")
    has_margin = bool(rows) and rows[0].margin is not None
    upper.set_ylabel("loss, nats a pair" if has_margin else "loss, nats a token")
    upper.legend()
    if has_margin:
        lower.plot(steps, [row.margin for row in rows], linewidth=0.7)
        lower.set_ylabel("margin")
    else:
        lower.plot(steps, [row.learning_rate for row in rows], linewidth=0.7)
        lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    _save(figure, out)


def plot_sweep(trials: Sequence[Trial], out: Path) -> None:
    """Draw each rate's losses by step, and the last losses by rate."""
    figure = _figure()
    left, right = figure.subplots(1, 2)
    for trial in trials:
        left.plot(range(1, len(trial.losses) + 1), trial.losses, label=f"{trial.learning_rate:g}", linewidth=0.8)
    left.set_xlabel("step")
    left.set_ylabel("loss")
    left.legend(title="learning rate")
    rates = [trial.learning_rate for trial in trials]
    right.plot(rates, [trial.loss for trial in trials], marker="o", label="training, last quarter")
    if trials[0].validation is not None:
        right.plot(rates, [trial.validation for trial in trials], marker="o", label="validation")
    right.set_xscale("log")
    right.set_xlabel("learning rate")
    right.legend()
    _save(figure, out)


def _figure() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(8, 5), layout="constrained")


def _save(figure: Any, out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(out)
