"""The report card: what a pack is made of, what that cost, and where; for programs here, for people in report_html."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.files import replacing
from octuor.quant import Format
from octuor.tools.pack.budget import Plan, quantized
from octuor.tools.pack.calibrate import Calibration
from octuor.tools.pack.compare import Comparison
from octuor.tools.pack.measure import STARVED
from octuor.tools.pack.text import Corpus
from octuor.weights import weight_shapes

PARTS = ("embed", "wq", "wk", "wv", "wo", "gate", "up", "down", "lm_head")


@dataclass(frozen=True)
class PartRow:
    """One part of the model over all layers; loss is the expected one, in nats a token."""

    part: str
    weights: int
    n_bytes: int
    bits: float
    formats: Mapping[str, int]  # format -> matrices
    loss: float


@dataclass(frozen=True)
class Report:
    """Everything that is told of a pack; the same source, text and budget give the same.

    expert_bits  [L][E] mean bits of each expert
    counts       [L][E] calibration tokens that chose it
    starved      experts that too few chose, as [layer, expert]: quantized by their weights alone
    layer_loss   [L] expected loss of each layer
    gap          how far the expected loss may be from the least one possible with these bytes, relative
    """

    budget: str
    quality: str
    text: str
    calibration_tokens: int
    bits: float
    weight_bytes: int
    source_bytes: int
    measured: Comparison
    expected_loss: float
    gap: float
    parts: tuple[PartRow, ...]
    layer_loss: tuple[float, ...]
    expert_bits: tuple[tuple[float, ...], ...]
    expert_formats: tuple[tuple[tuple[str, str, str], ...], ...]
    counts: tuple[tuple[int, ...], ...]
    starved: tuple[tuple[int, int], ...]

    def as_json(self) -> dict[str, Any]:
        """JSON values, perplexities among them."""
        found = asdict(self)
        found["measured"] |= {
            "source_perplexity": self.measured.source_perplexity, "perplexity": self.measured.perplexity
        }  # fmt: skip
        return found

    def summary(self) -> dict[str, Any]:
        """The part that goes into the pack's own metadata: the pack's header tells every matrix's format anyway."""
        found = self.as_json()
        for key in ("expert_bits", "expert_formats", "counts"):
            del found[key]
        found["layer_loss"] = [float(f"{loss:.4g}") for loss in self.layer_loss]
        return found


def make_report(
    checkpoint: Checkpoint, plan: Plan, found: Calibration, measured: Comparison, corpus: Corpus, quality: str
) -> Report:
    """The report of a pack that was written by this plan."""
    config = checkpoint.config
    bits = [[_expert_bits(plan.formats, dict(weight_shapes(config)), n, e) for e in range(config.n_experts)]
            for n in range(config.n_layers)]  # fmt: skip
    layer_loss = [0.0] * config.n_layers
    for name, loss in plan.losses.items():
        if name.startswith("layers."):
            layer_loss[int(name.split(".")[1])] += loss
    return Report(
        plan.label, quality, corpus.label, sum(map(len, corpus.calibration)), plan.bits,
        sum(plan.formats[name].n_bytes(shape) for name, shape in weight_shapes(config)), checkpoint.n_bytes,
        measured, plan.allocation.loss, plan.allocation.gap, _parts(checkpoint, plan), tuple(layer_loss),
        tuple(map(tuple, bits)),
        tuple(
            tuple(_expert_formats(plan.formats, n, e) for e in range(config.n_experts)) for n in range(config.n_layers)
        ),
        tuple(tuple(int(count) for count in row) for row in found.counts),
        tuple(
            (n, e) for n, row in enumerate(found.counts) for e, count in enumerate(row) if count < STARVED
        ),
    )  # fmt: skip


def write_report(report: Report, out: Path) -> tuple[Path, Path]:
    """Write NAME.report.json and NAME.report.html beside a pack, over any that are there."""
    from octuor.tools.pack.report_html import report_html

    texts = {".report.json": json.dumps(report.as_json(), indent=1), ".report.html": report_html(report, out.name)}
    paths = []
    for suffix, text in texts.items():
        path = out.with_name(out.name + suffix)
        data = text.encode()
        with replacing(path, len(data), overwrite=True) as file:
            file.write(data)
        paths.append(path)
    return paths[0], paths[1]


def _expert_formats(formats: Mapping[str, Format], n: int, e: int) -> tuple[str, str, str]:
    gate, up, down = (formats[f"layers.{n}.experts.{e}.{part}"].name for part in ("gate", "up", "down"))
    return gate, up, down


def _expert_bits(formats: Mapping[str, Format], shapes: Mapping[str, tuple[int, ...]], n: int, e: int) -> float:
    names = [f"layers.{n}.experts.{e}.{part}" for part in ("gate", "up", "down")]
    n_bytes = sum(formats[name].n_bytes(shapes[name]) for name in names)
    return 8 * n_bytes / sum(prod(shapes[name]) for name in names)


def _parts(checkpoint: Checkpoint, plan: Plan) -> tuple[PartRow, ...]:
    weights: dict[str, int] = defaultdict(int)
    n_bytes: dict[str, int] = defaultdict(int)
    losses: dict[str, float] = defaultdict(float)
    formats: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, shape in quantized(checkpoint.config).items():
        part, row = name.rpartition(".")[2], plan.formats[name]
        weights[part] += prod(shape)
        n_bytes[part] += row.n_bytes(shape)
        losses[part] += plan.losses[name]
        formats[part][row.name] += 1
    return tuple(
        PartRow(
            part, weights[part], n_bytes[part], 8 * n_bytes[part] / weights[part],
            dict(sorted(formats[part].items())), losses[part],
        )
        for part in PARTS
    )  # fmt: skip
