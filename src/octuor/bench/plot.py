"""A roofline: operations a second over operations a byte, each row a point under what the machine can do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from octuor.errors import BackendError, RequestError

SUFFIXES = (".png", ".svg")
MARKERS = {"prompt": "o", "answer": "^"}
PEAKS = (("int8_gop_per_s", "int8"), ("bf16_gflop_per_s", "bf16"), ("f32_gflop_per_s", "float32"))


def check_plot(out: Path) -> None:
    """Raise, before anything is measured, what would keep plot_roofline from drawing."""
    if out.suffix not in SUFFIXES:
        raise RequestError(f"plot: expected a file that ends in {' or '.join(SUFFIXES)}, found {out}")
    if not out.parent.is_dir():
        raise RequestError(f"plot: expected the folder {out.parent}, found none; create it first")
    if find_spec("matplotlib") is None:
        raise BackendError('plot: expected the library matplotlib, found none; pip install "octuor[plot]"')


def plot_roofline(report: dict[str, Any], out: Path) -> None:
    """Draw a report of report_json as a PNG or SVG, by the name's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    limits = report["limits"]
    points = [(row["gop_per_s"] / row["gb_per_s"], row["gop_per_s"], row) for row in report["rows"]]
    x = np.geomspace(min(point[0] for point in points) / 2, 2 * max(point[0] for point in points), 200)
    for key, label in PEAKS:
        if limits[key] is not None:
            roof = np.minimum(limits["read_gb_per_s"] * x, limits[key])
            axes.plot(x, roof, linewidth=1, label=f"{limits['read_gb_per_s']:.0f} GB/s, {label} {limits[key]:,.0f}")
    for kind, marker in MARKERS.items():
        own = [point for point in points if point[2]["kind"] == kind]
        axes.scatter([point[0] for point in own], [point[1] for point in own], marker=marker, label=f"{kind}s")
    for at, rate, row in points:
        label = str(row["tokens"]) if row["kind"] == "prompt" else f"x{row['batch']}"
        axes.annotate(label, (at, rate), textcoords="offset points", xytext=(5, -10), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("1e9 operations a second")
    model, machine = report["model"], report["machine"]
    axes.set_title(
        f"{Path(model['name']).name}, {model['layers']} of {model['full_layers']} layers, {model['format']}\n"
        f"{machine['cpu']}, {machine['isa']}, {machine['threads']} threads",
        fontsize=10,
    )
    axes.legend(fontsize=8)
    figure.savefig(out)
