"""octuor bench: a model's speed beside this machine's limits."""

from __future__ import annotations

import json
from typing import Annotated, Any, Optional

import typer

from octuor.cli import options


def main(
    model: options.ModelArgument = None,
    geometry: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Random weights instead: mixtral-8x7b, mixtral-8x22b, mistral-7b or llama-2-70b."),
    ] = None,
    layers: Annotated[Optional[int], typer.Option(min=1, help="Layers of the geometry; default: all.")] = None,  # noqa: UP045
    format_name: Annotated[str, typer.Option("--format", help="Number format of the geometry's weights.")] = "q4",
    prompt: Annotated[str, typer.Option(help="Prompt lengths; empty: none.")] = "16,128,512,4096",
    answer: Annotated[int, typer.Option(min=0, help="Tokens of each answer; 0: none.")] = 64,
    batch: Annotated[str, typer.Option(help="Answers written at once.")] = "1,2,4,8,16,32",
    threads: options.Threads = None,
    isa: Annotated[Optional[str], typer.Option(help="Instruction set; default: the fastest here.")] = None,  # noqa: UP045
    repeats: Annotated[int, typer.Option(min=1, help="Times that each row is measured.")] = 3,
    as_json: options.Json = False,
) -> None:
    """Measure prompts and answers beside what this machine can do at most. Rows are medians; sampling is left out."""
    from octuor.api import POCKET
    from octuor.bench import run as bench
    from octuor.bench.model import open_model, random_model
    from octuor.cli.progress import bytes_bar, steps_bar
    from octuor.errors import RequestError
    from octuor.ops.native import NativeOps

    if geometry is not None and model is not None:
        raise RequestError(f"bench: expected a MODEL or --geometry, found both; drop {model} or --geometry {geometry}")
    ops = NativeOps(isa, threads)
    if geometry is None:
        subject = open_model(POCKET if model is None else model, ops)
    else:
        with bytes_bar(f"{geometry} {format_name}") as progress:
            subject = random_model(geometry, format_name, ops, n_layers=layers, progress=progress)
    cases = bench.make_cases(subject, _numbers("--prompt", prompt), answer, _numbers("--batch", batch))
    with steps_bar() as on_step:
        report = bench.as_json(bench.run(subject, cases, repeats=repeats, on_step=on_step))
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)


def _numbers(option: str, text: str) -> list[int]:
    from octuor.errors import RequestError

    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise RequestError(f"{option}: expected whole numbers such as 16,128; found {text!r}") from error


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "tokens/s", "least", "most", "GB/s", "of read", "GOP/s"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        what = f"prompt of {row['tokens']}" if row["kind"] == "prompt" else f"answers, batch {row['batch']}"
        table.add_row(
            what, f"{row['tokens_per_s']:.1f}", f"{row['tokens_per_s_min']:.1f}", f"{row['tokens_per_s_max']:.1f}",
            f"{row['gb_per_s']:.1f}", f"{row['share_of_read']:.0%}", f"{row['gop_per_s']:.0f}",
        )  # fmt: skip
    Console().print(table)
