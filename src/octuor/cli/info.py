"""octuor info: what a model is and needs, and what this machine runs it with."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.checkpoint import Checkpoint


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
    from octuor.tools.describe import describe, oddities

    config, parts = checkpoint.config, describe(checkpoint)
    kv_bytes = 2 * 2 * config.n_layers * config.n_kv_heads * config.head_dim
    cached = config.max_seq_len if config.sliding_window is None else min(config.sliding_window, config.max_seq_len)
    return {
        "source": str(checkpoint.source),
        "kind": checkpoint.kind,
        "tokenizer": checkpoint.tokenizer_kind,
        "config": asdict(config),
        "params": config.n_params,
        "active_params": config.n_active_params,
        "bits": 8 * checkpoint.n_bytes / config.n_params,
        "parts": [asdict(part) | {"bits": part.bits} for part in parts],
        "odd": oddities(checkpoint),
        "weight_bytes": checkpoint.n_bytes,
        "cache_bytes_per_token": kv_bytes,
        "cache_bytes_full": kv_bytes * cached,
    }


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from octuor.units import count, format_bytes

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
            ("parameters", f"{count(report['params'])}, {count(report['active_params'])} a token"),
            ("layers", f"{config['n_layers']} of dim {config['dim']}, hidden {config['hidden_dim']}, {experts}"),
            ("attention", f"{config['n_heads']} heads over {config['n_kv_heads']} of {config['head_dim']}{window}"),
            ("context", f"{config['max_seq_len']} tokens, vocabulary {config['vocab_size']}"),
            ("tokenizer", report["tokenizer"] or "none: token ids only"),
        ],
    )
    section(
        "Memory",
        [_part(row) for row in report["parts"]]
        + [
            ("in all", f"{report['bits']:.2f} bits, {format_bytes(report['weight_bytes'])}"),
            ("cache a token", format_bytes(report["cache_bytes_per_token"])),
            ("cache when full", format_bytes(report["cache_bytes_full"])),
        ],
    )  # fmt: skip
    if report["odd"]:
        section("Worth knowing", [("-", sentence) for sentence in report["odd"]])
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


def _part(row: dict[str, Any]) -> tuple[str, str]:
    from octuor.units import count, format_bytes

    formats = " and ".join(row["formats"])
    return row[
        "name"
    ], f"{formats}, {row['bits']:.2f} bits, {count(row['n_weights'])} weights, {format_bytes(row['n_bytes'])}"


def _cores(machine: dict[str, Any]) -> str:
    parts = [f"{machine['cores']} physical, {machine['performance_cores']} of the fastest kind"]
    parts.append(f"{machine['cpus']} CPUs usable")
    if len(machine["numa_nodes"]) > 1:
        parts.append(f"in {len(machine['numa_nodes'])} NUMA nodes")
    if machine["quota"] is not None:
        parts.append(f"time for {machine['quota']:g} of them")
    return ", ".join(parts)
