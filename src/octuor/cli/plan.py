"""octuor plan: what a model will take on this machine, before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from octuor.tools.plan.choices import Choice
    from octuor.tools.plan.plan import Plan


def main(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, a Hub id, or mixtral-8x7b, mixtral-8x22b, mistral-7b, llama-2-70b.")
    ],
    memory: Annotated[Optional[str], typer.Option(help="As in 16GiB; default: what is free.")] = None,  # noqa: UP045
    context: Annotated[Optional[int], typer.Option(help="Tokens of prompt and answer; default: 4096.")] = None,  # noqa: UP045
    batch: Annotated[int, typer.Option(help="Answers at once.")] = 1,
    disk: Annotated[Optional[Path], typer.Option(help="Folder that will hold the model; its disk is measured.")] = None,  # noqa: UP045
    as_json: options.Json = False,
) -> None:
    """Show what fits, how fast it would run, and what to type; measures this machine for a minute at most."""
    from octuor.cli.progress import steps_bar
    from octuor.tools.plan.plan import make_plan, plan_json
    from octuor.tools.plan.subject import find_subject
    from octuor.units import parse_bytes

    n_bytes = None if memory is None else parse_bytes(memory)
    subject = find_subject(model)
    with steps_bar() as on_step:
        plan = make_plan(subject, memory=n_bytes, context=context, batch=batch, folder=disk, on_step=on_step)
    if as_json:
        print(json.dumps(plan_json(plan)))
    else:
        _print(plan)


def _print(plan: Plan) -> None:
    from rich.console import Console

    from octuor.units import count, format_bytes

    console = Console(highlight=False, soft_wrap=True)
    config, limits = plan.subject.config, plan.limits
    console.print(
        f"{plan.subject.name}: {count(config.n_params)} parameters, {count(config.n_active_params)} of them a token"
    )
    console.print(
        f"memory {format_bytes(limits.memory)}, context {limits.context}, {limits.batch} at once; "
        f"memory reads {plan.rates.read_gb_per_s:.0f} GB/s{_disk(plan)}"
    )
    console.print()
    _print_choices(console, plan)
    console.print("in all: with cache and activations; held: share of the experts in memory; tokens a second\n")
    sizes = ", ".join(f"{n} tokens {format_bytes(n_bytes)}" for n, n_bytes in plan.cache.items())
    console.print(f"key/value cache (f16) for {limits.batch} at once: {sizes}")
    console.print(f"\n{plan.advice[:1].upper()}{plan.advice[1:]}.")
    if plan.command is not None:
        console.print(f"  {plan.command}")


def _disk(plan: Plan) -> str:
    disk = plan.rates.disk
    if disk is None or disk.read_gb_per_s is None:
        return ""
    return f", disk {disk.read_gb_per_s:.2f} GB/s"


def _print_choices(console: Console, plan: Plan) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("format", "bits", "weights", "in all", "runs", "prompt/s", "answers/s"):
        table.add_column(heading, justify="left" if heading in ("format", "runs") else "right", no_wrap=True)
    if plan.stored is not None:
        table.add_row(*_cells(plan.stored, f"as it is ({plan.stored.name})"))
    for row in plan.choices:
        table.add_row(*_cells(row, row.name))
    console.print(table)


def _cells(row: Choice, name: str) -> list[str]:
    from octuor.units import format_bytes

    how = f"streamed, {row.resident:.0%} held" if row.how == "streamed" else row.how
    speeds = ["" if rate is None else f"{rate:.1f}" for rate in (row.prompt, row.answer)]
    return [name, f"{row.bits:.2f}", format_bytes(row.use.weights), format_bytes(row.use.total), how, *speeds]
