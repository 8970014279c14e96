"""A picture of a run: loss and expert balance over the tokens trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from octuor.train.loop import StepMetrics, read_metrics

SMOOTHED_STEPS = 50


def smoothed(rows: list[StepMetrics], n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Millions of tokens and mean losses of up to n_steps steps that end there."""
    width = min(n_steps, len(rows))
    mean = np.convolve([row.loss for row in rows], np.ones(width) / width, mode="valid")
    return np.array([row.tokens for row in rows])[width - 1 :] / 1e6, mean


def plot_losses(metrics: Path, out: Path) -> None:
    """Draw a metrics.jsonl as a PNG: the loss of each step, its running mean, and the least-loaded expert."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    tokens = np.array([row.tokens for row in rows]) / 1e6
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot(tokens, [row.loss for row in rows], color="0.8", linewidth=0.5)
    upper.plot(*smoothed(rows, SMOOTHED_STEPS), label=f"mean of {min(SMOOTHED_STEPS, len(rows))} steps")
    upper.set_ylabel("loss, nats a token")
    upper.legend()
    lower.plot(tokens, [100 * row.least_load for row in rows], linewidth=0.5)
    lower.set_ylabel("least-loaded\nexpert, %")
    lower.set_xlabel("tokens, millions")
    FigureCanvasAgg(figure).print_png(out)
