"""octuor bench: a model's speed beside this machine's limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from octuor.cli import options

BUSY = 0.05  # share of the CPUs in other hands from which on the figures say so


def main(
    model: options.ModelArgument = None,
    geometry: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Random weights instead of MODEL: mixtral-8x7b, mixtral-8x22b, mistral-7b or llama-2-70b."),
    ] = None,
    layers: Annotated[Optional[int], typer.Option(min=1, help="Layers of the geometry; default: all.")] = None,  # noqa: UP045
    format_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--format", help="Of the geometry's weights; default: q4."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Lengths of prompts; 0: none.")] = "16,128,512,4096",
    answer: Annotated[int, typer.Option(min=0, help="Tokens of each answer; 0: none.")] = 64,
    batch: Annotated[str, typer.Option(help="How many answers at once.")] = "1,2,4,8,16,32",
    resident: options.Resident = False,
    memory: options.Memory = None,
    threads: options.Threads = None,
    isa: Annotated[Optional[str], typer.Option(help="Instruction set; default: the fastest here.")] = None,  # noqa: UP045
    repeats: Annotated[int, typer.Option(min=1, help="Times that each row is measured.")] = 3,
    plot: Annotated[Optional[Path], typer.Option(help="Draw a roofline into this .png or .svg.")] = None,  # noqa: UP045
    as_json: options.Json = False,
) -> None:
    """Measure prompts and answers beside what this machine can do at most.

    Rows are medians of runs with random token ids, an answer's after 16 tokens; choosing the next token is left out.
    """
    from octuor.api import POCKET
    from octuor.bench import run as bench
    from octuor.bench.limits import measure_limits
    from octuor.bench.model import open_model, random_model
    from octuor.bench.plot import check_plot, plot_roofline
    from octuor.bench.report import report_json
    from octuor.cli.progress import bytes_bar, steps_bar
    from octuor.errors import RequestError
    from octuor.ops.native import PROBE_BYTES, NativeOps
    from octuor.units import parse_bytes

    prompts, batches = _numbers("--prompt", prompt), _numbers("--batch", batch)
    if plot is not None:
        check_plot(plot)
    ops = NativeOps(isa, threads)
    limit = None if memory is None else parse_bytes(memory)
    limits = None if limit is None else measure_limits(ops, min(PROBE_BYTES, limit // 4))  # before it is all in use
    if geometry is None:
        if layers is not None or format_name is not None:
            raise RequestError("bench: expected --geometry with --layers and --format, found none; name a geometry")
        with bytes_bar("reading") as progress:
            subject = open_model(
                POCKET if model is None else model, ops, resident=resident, memory=limit, progress=progress
            )
    else:
        if memory is not None:
            raise RequestError("memory: expected MODEL with --memory, found --geometry; `octuor synth` writes a pack")
        if model is not None:
            raise RequestError(f"bench: expected MODEL or --geometry, found {model} and {geometry}; drop one")
        with bytes_bar(f"{geometry} {format_name or 'q4'}") as progress:
            subject = random_model(geometry, format_name or "q4", ops, n_layers=layers, progress=progress)
    cases = bench.make_cases(subject, [] if prompts == [0] else prompts, answer, batches)
    with steps_bar() as on_step:
        report = report_json(bench.run(subject, cases, repeats=repeats, limits=limits, on_step=on_step))
    if plot is not None:
        plot_roofline(report, plot)
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

    console = Console(highlight=False, soft_wrap=True)
    model, machine, limits = report["model"], report["machine"], report["limits"]
    partial = model["layers"] < model["full_layers"]
    depth = f"{model['layers']} of {model['full_layers']} layers"
    console.print(f"{model['name']}, {depth}, {model['format']}, {model['bytes'] / 1e9:.2f} GB")
    console.print(f"{machine['cpu']}, {machine['isa']}, {machine['threads']} threads")
    console.print(f"limits: read {limits['read_gb_per_s']:.1f} GB/s")
    for kind, instruction in machine["instructions"].items():
        rate = limits[f"{kind}_gop_per_s" if kind == "int8" else f"{kind}_gflop_per_s"]
        console.print(f"        {kind} {rate:,.0f} GOP/s ({instruction})")
    if machine["foreign_load"] is not None and machine["foreign_load"] > BUSY:
        console.print(f"other work took {machine['foreign_load']:.0%} of the CPUs: these figures are too low")
    load = model["expert_load"]
    if load["most"] < 1:
        console.print(f"an expert's share of choices: {load['least']:.1%} to {load['most']:.1%}")
    if model["first_token_s"] is not None:
        console.print(f"opening to first token: {model['first_token_s']:.2f} s")
    if (experts := model["experts"]) is not None:
        found = f", {experts['found']:.0%} of choices found one there" if experts["found"] is not None else ""
        console.print(f"{experts['held']} of {experts['of']} experts in memory{found}")
    console.print()
    _print_rows(console, report["rows"], f"at {model['full_layers']}" if partial else None)
    console.print()
    _print_parts(console, report["rows"])


def _what(row: dict[str, Any]) -> str:
    return f"prompt {row['tokens']}" if row["kind"] == "prompt" else f"answers x{row['batch']}"


def _table(headings: list[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print_rows(console: Any, rows: list[dict[str, Any]], full: str | None) -> None:
    headings = ["", "tokens/s", "least", "most", "seconds", "GB/s", "read", "GOP/s", "peak"]
    is_read = any(row["disk_gb_per_s"] for row in rows)
    table = _table(headings + (["disk GB/s"] if is_read else []) + ([full] if full else []))
    for row in rows:
        of_peak = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        cells = [
            f"{row['tokens_per_s']:.1f}", f"{row['tokens_per_s_min']:.1f}", f"{row['tokens_per_s_max']:.1f}",
            f"{row['seconds']:.3f}", f"{row['gb_per_s']:.1f}", f"{row['share_of_read']:.0%}",
            f"{row['gop_per_s']:.0f}", of_peak,
        ]  # fmt: skip
        if is_read:
            cells.append(f"{row['disk_gb_per_s']:.2f}")
        table.add_row(_what(row), *cells, *([f"{row['full_tokens_per_s']:.2f}"] if full else []))
    console.print(table)


def _print_parts(console: Any, rows: list[dict[str, Any]]) -> None:
    table = _table(["% of time", *rows[0]["ops"]])
    for row in rows:
        table.add_row(_what(row), *(f"{100 * share:.1f}" for share in row["ops"].values()))
    console.print(table)
