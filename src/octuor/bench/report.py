"""A benchmark's figures as JSON values: medians over repeats, and each row's share of what the machine can do."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from octuor.bench.limits import Limits, median_limits
from octuor.bench.model import BenchModel
from octuor.bench.run import Profile, Result, Row
from octuor.ops.native import machine_report
from octuor.quant import Format

NOT_REPEATED = ("embed", "lm_head")  # parts that a model has once, however many its layers


def report_json(result: Result) -> dict[str, Any]:
    """The one object that `octuor bench --json` prints.

    rows      of kind, tokens, batch, tokens_per_s (median) with its least and most, gb_per_s (weights of the experts
              met, all other weights, keys and values), disk_gb_per_s (experts read), gop_per_s, shares of the limits,
              and `ops`: the share of each part of the forward pass, "outside" being Python, bindings and waiting for
              experts
    limits    medians of those measured before and after each repeat
    """
    model, limits = result.model, median_limits(result.limits)
    rates = {name: rate for name, rate in asdict(limits).items() if name != "instructions"}
    return {
        "machine": {
            "cpu": machine_report()["cpu"],
            "isa": model.ops.isa,
            "threads": model.ops.threads,
            "instructions": limits.instructions,
            "foreign_load": result.foreign_load,
        },
        "model": _model_json(model, result),
        "limits": rates,
        "limits_read_gb_per_s": [sample.read_gb_per_s for sample in result.limits],
        "rows": [_row_json(model, row, limits) for row in result.rows],
    }


def _model_json(model: BenchModel, result: Result) -> dict[str, Any]:
    return {
        "name": model.name,
        "format": "+".join(row.name for row in model.formats),
        "layers": model.config.n_layers,
        "full_layers": model.full_layers,
        "params": model.config.n_params,
        "active_params": model.config.n_active_params,
        "experts": _experts_json(model),
        "bytes": model.sizes.total,
        "load_s": model.load_s,
        "first_token_s": result.first_token_s,
        "expert_load": expert_load(result),
    }


def _experts_json(model: BenchModel) -> dict[str, Any] | None:
    """Under a limit of memory: how many experts are held in the end, of all, and how many choices found one there."""
    if model.store is None:
        return None
    stats = model.store.stats()
    met = stats.hits + stats.misses
    return {
        "held": sum(stats.held),
        "of": model.config.n_layers * model.config.n_experts,
        "found": stats.hits / met if met else None,
        "pool_bytes": stats.pool_bytes,
    }


def expert_load(result: Result) -> dict[str, float]:
    """Least and most share of a layer's choices that one expert got, over all rows; even is 1 / n_experts."""
    loads = sum(run.cost.loads for row in result.rows for run in row.runs)
    shares = np.asarray(loads / np.sum(loads, axis=1, keepdims=True))
    return {"least": float(shares.min()), "most": float(shares.max())}


def peak(model: BenchModel, limits: Limits) -> float | None:
    """The limit of the model's own arithmetic, 1e9 operations a second: int8 for tiled formats, else float32."""
    return (
        limits.int8_gop_per_s
        if any(isinstance(row, Format) and row.is_tiled for row in model.formats)
        else limits.f32_gflop_per_s
    )


def _row_json(model: BenchModel, row: Row, limits: Limits) -> dict[str, Any]:
    n_tokens = row.case.tokens * row.case.batch
    seconds = median(run.seconds for run in row.runs)
    gb = median(run.cost.n_bytes / run.seconds / 1e9 for run in row.runs)
    gop = median(run.cost.n_ops / run.seconds / 1e9 for run in row.runs)
    best = peak(model, limits)
    ops = shares(row.profile)
    return {
        "kind": row.case.kind,
        "tokens": row.case.tokens,
        "batch": row.case.batch,
        "tokens_per_s": n_tokens / seconds,
        "tokens_per_s_min": n_tokens / max(run.seconds for run in row.runs),
        "tokens_per_s_max": n_tokens / min(run.seconds for run in row.runs),
        "gb_per_s": gb,
        "gop_per_s": gop,
        "share_of_read": gb / limits.read_gb_per_s,
        "share_of_peak": gop / best if best is not None else None,
        "seconds": seconds,
        "disk_gb_per_s": median(run.read_bytes / run.seconds / 1e9 for run in row.runs),
        "full_tokens_per_s": n_tokens / full_depth(model, seconds, ops),
        "ops": ops,
    }


def shares(profile: Profile) -> dict[str, float]:
    """Each part's share of a run's seconds, and what was spent outside kernels."""
    found = {part: seconds / profile.seconds for part, seconds in profile.parts.items()}
    return found | {"outside": 1 - sum(found.values())}


def full_depth(model: BenchModel, seconds: float, ops: dict[str, float]) -> float:
    """Seconds that all layers of the geometry would take: layers take turns, embedding and head do not."""
    once = sum(ops[part] for part in NOT_REPEATED)
    return seconds * (once + (1 - once) * model.full_layers / model.config.n_layers)
