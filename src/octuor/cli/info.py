"""octuor info: what a model is and needs, and what this machine runs it with."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.checkpoint import Checkpoint

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def main(model: options.ModelArgument = None, as_json: options.Json = False) -> None:
    """Show a model's geometry, formats and memory, and this machine's kernels."""
    from octuor.api import POCKET
    from octuor.checkpoint import open_checkpoint
    from octuor.ops.native import machine_report

    report = model_report(open_checkpoint(POCKET if model is None else model))
    report["machine"] = machine_report()
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)


def model_report(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything `octuor info` says of a model, as JSON values."""
    config = checkpoint.config
    from octuor.ops.native import runs_in_place

    by_format: dict[str, dict[str, int]] = defaultdict(lambda: {"weights": 0, "bytes": 0, "decoded_weights": 0})
    for name in checkpoint.names:
        weight = checkpoint.get(name)
        if len(weight.shape) == 2 and not runs_in_place(weight.format):
            by_format[weight.format.name]["decoded_weights"] += prod(weight.shape)
        by_format[weight.format.name]["weights"] += prod(weight.shape)
        by_format[weight.format.name]["bytes"] += weight.nbytes
    kv_bytes = 2 * 2 * config.n_layers * config.n_kv_heads * config.head_dim
    cached = config.max_seq_len if config.sliding_window is None else min(config.sliding_window, config.max_seq_len)
    return {
        "source": str(checkpoint.source),
        "kind": checkpoint.kind,
        "tokenizer": checkpoint.tokenizer_kind,
        "config": asdict(config),
        "params": config.n_params,
        "active_params": config.n_active_params,
        "formats": dict(by_format),
        "weight_bytes": checkpoint.n_bytes,
        "cache_bytes_per_token": kv_bytes,
        "cache_bytes_full": kv_bytes * cached,
    }


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    config, machine = report["config"], report["machine"]
    console = Console()

    def section(title: str, rows: list[tuple[str, str]]) -> None:
        table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()

    experts = f"{config['n_experts']} experts, {config['n_experts_per_token']} a token"
    if config["n_experts"] == 1:
        experts = "dense"
    window = f", sliding window {config['sliding_window']}" if config["sliding_window"] else ""
    section(
        "Model",
        [
            ("source", f"{report['source']} ({report['kind']})"),
            ("parameters", f"{_count(report['params'])}, {_count(report['active_params'])} a token"),
            ("layers", f"{config['n_layers']} of dim {config['dim']}, hidden {config['hidden_dim']}, {experts}"),
            ("attention", f"{config['n_heads']} heads over {config['n_kv_heads']} of {config['head_dim']}{window}"),
            ("context", f"{config['max_seq_len']} tokens, vocabulary {config['vocab_size']}"),
            ("tokenizer", report["tokenizer"] or "none: token ids only"),
        ],
    )
    section(
        "Memory",
        [
            (name, f"{_count(row['weights'])} weights, {_size(row['bytes'])}{_decoded(row)}")
            for name, row in report["formats"].items()
        ]
        + [
            ("weights in all", _size(report["weight_bytes"])),
            ("cache a token", _size(report["cache_bytes_per_token"])),
            ("cache when full", _size(report["cache_bytes_full"])),
        ],
    )  # fmt: skip
    kernels = []
    for row in machine["kernels"]:
        note = " (chosen)" if row["chosen"] else "" if row["supported"] else " (not on this CPU)"
        kernels.append(row["name"] + note)
    section(
        "Machine",
        [("CPU", machine["cpu"]), ("features", " ".join(machine["features"])), ("cores", _cores(machine)),
         ("threads", f"{machine['threads']}: {machine['threads_reason']}"),
         ("kernels", ", ".join(kernels))],
    )  # fmt: skip


def _cores(machine: dict[str, Any]) -> str:
    parts = [f"{machine['cores']} physical, {machine['performance_cores']} of the fastest kind"]
    parts.append(f"{machine['cpus']} CPUs usable")
    if len(machine["numa_nodes"]) > 1:
        parts.append(f"in {len(machine['numa_nodes'])} NUMA nodes")
    if machine["quota"] is not None:
        parts.append(f"time for {machine['quota']:g} of them")
    return ", ".join(parts)


def _decoded(row: dict[str, int]) -> str:
    """What the kernels cannot read as it lies costs memory of its own, 2 bytes a weight or 4."""
    n = row["decoded_weights"]
    return f", loaded as 16 or 32 bits: {_size(2 * n)} or more" if n else ""


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} billion" if n >= 1e9 else f"{n / 1e6:.2f} million"


def _size(n_bytes: int) -> str:
    return next(f"{n_bytes / unit:.2f} {name}" for name, unit in UNITS if n_bytes >= unit or name == "kB")
