"""octuor synth: a random-weight model of true geometry, for tests and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from octuor.cli import options


def main(
    out: Annotated[Path, typer.Argument(help="The pack to write.")],
    geometry: Annotated[str, typer.Option(help="mixtral-8x7b, mixtral-8x22b or mistral-7b.")] = "mixtral-8x7b",
    layers: Annotated[Optional[int], typer.Option(help="Layers to write; default: all.")] = None,  # noqa: UP045
    format_name: Annotated[str, typer.Option("--format", help="bf16, f16, f32, q8, q6, q5, q4, q3 or q2.")] = "q4",
    tokenizer: Annotated[Optional[Path], typer.Option(help="A tokenizer.model for the pack to carry.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="The same seed makes the same file.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write random weights of a true geometry at disk speed. The model says noise, at the real one's pace."""
    from octuor.cli.progress import bytes_bar
    from octuor.tools.synth import synth

    with bytes_bar(f"{geometry} {format_name}") as progress:
        report = synth(
            out, geometry, format_name,
            n_layers=layers, seed=seed, tokenizer=tokenizer, progress=progress, overwrite=overwrite,
        )  # fmt: skip
    rate = report.n_bytes / report.seconds / 1e6
    if as_json:
        print(
            json.dumps({"path": str(report.path), "bytes": report.n_bytes, "seconds": report.seconds, "mb_per_s": rate})
        )
    else:
        print(f"{report.path}: {report.n_bytes / 1e9:.2f} GB in {report.seconds:.1f} s, {rate:.0f} MB/s")
