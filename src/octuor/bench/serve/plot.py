"""A load test as a picture: throughput and first tokens over the load, and how waiting times are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octuor.bench.serve.report import Row, row_json
from octuor.bench.serve.session import Result

LINES = {"p50": "-", "p95": "--", "p99": ":"}


def plot_load(result: Result, out: Path) -> None:
    """Draw a result as a PNG or SVG, by the name's ending; octuor.bench.plot.check_plot tells what would hinder it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    rows = [(row, row_json(row)) for row in result.rows if row.whole]
    axes = figure.subplots(2, 2)
    _over_load(axes[0][0], axes[0][1], rows)
    _distribution(axes[1][0], [(row, row.first_token_s()) for row, _ in rows], "first token, s")
    _distribution(axes[1][1], [(row, row.gaps_s()) for row, _ in rows], "between tokens, s")
    figure.suptitle(f"{result.model}: prompts of {result.prompts}, answers of {result.settings.answer}", fontsize=10)
    figure.savefig(out)


def _over_load(speed: Any, first: Any, rows: Sequence[tuple[Row, dict[str, Any]]]) -> None:
    loads = [found["concurrency"] or found["rate"] for _, found in rows]
    unit = "streams" if all(row.load.concurrency for row, _ in rows) else "requests a second"
    speed.plot(loads, [found["answer_tokens_per_s"] for _, found in rows], marker="o")
    speed.set_ylabel("answer tokens a second")
    with_text = [(at, found["first_token_s"]) for at, (_, found) in zip(loads, rows, strict=True)]
    with_text = [(at, summary) for at, summary in with_text if summary is not None]
    for name, line in LINES.items():
        values = [summary[name] for _, summary in with_text]
        first.plot([at for at, _ in with_text], values, line, color="C0", marker="o", label=name)
    first.set_ylabel("first token, s")
    first.legend(fontsize=8)
    for axes in (speed, first):
        axes.set_xlabel(unit)
        axes.set_xticks(loads, [f"{load:g}" for load in loads])
        axes.set_ylim(bottom=0)


def _distribution(axes: Any, samples: Sequence[tuple[Row, list[float]]], label: str) -> None:
    """The share of waits that were at most so long, a line a row."""
    for row, values in samples:
        waits = np.sort([value for value in values if value > 0])  # on a logarithmic axis
        if len(waits):
            axes.step(waits, np.arange(1, len(waits) + 1) / len(waits), where="post", label=str(row.load))
            axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("share")
    axes.set_ylim(0, 1)
    if axes.lines:
        axes.legend(fontsize=8)
