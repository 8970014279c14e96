"""octuor routing: which experts play which texts, with the Mixtral paper's figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.tools.routing.analysis import Analysis


def main(
    texts: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time
        typer.Argument(metavar="[TEXT_OR_FILE]...", help="Texts, files, or - for stdin; they are shown coloured."),
    ] = None,
    model: options.ModelOption = None,
    layers: Annotated[str, typer.Option(help="Layers to show: numbers, or first, middle, last.")] = "first,middle,last",
    by_domain: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder with a text, or a folder of texts, for each domain."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each domain that count.")] = 8192,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each text that are shown.")] = 160,
    png: Annotated[Optional[Path], typer.Option(help="Figures: x.png writes x-experts.png and others.")] = None,  # noqa: UP045
    svg: Annotated[Optional[Path], typer.Option(help="The same as SVG.")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="Tables: x.csv writes x-experts.csv and others.")] = None,  # noqa: UP045
    html: Annotated[Optional[Path], typer.Option(help="One page with all of it.")] = None,  # noqa: UP045
    context: options.Context = None,
    threads: options.Threads = None,
    resident: options.Resident = False,
    memory: options.Memory = None,
    as_json: options.Json = False,
) -> None:
    """Show which experts play which texts: shares by domain, repetition between neighbours, coloured text."""
    from octuor.api import load
    from octuor.cli.progress import PromptBar, steps_bar, tokens_bar
    from octuor.errors import RequestError
    from octuor.routing.trace import check_has_router
    from octuor.tools.routing.analysis import analyse
    from octuor.tools.routing.layers import parse_layers
    from octuor.tools.routing.outputs import Outputs, write_outputs
    from octuor.tools.routing.tables import as_json as tables_json
    from octuor.tools.routing.texts import read_domains, read_text

    if not texts and by_domain is None:
        raise RequestError("texts: expected a text, a file or --by-domain, found none")
    outputs = Outputs(png, svg, csv, html)
    outputs.check()
    shown = [read_text(given) for given in texts or ()]
    domains = shown if by_domain is None else read_domains(by_domain)
    bar = PromptBar()
    with bar:
        loaded = load(model, threads=threads, context=context, resident=resident, memory=memory, on_load=bar.loading)
    check_has_router(loaded.config)
    chosen = parse_layers(layers, loaded.config.n_layers)
    with tokens_bar("routing") as progress:
        analysis = analyse(
            loaded, loaded.checkpoint.source.name, domains, shown,
            max_tokens=max_tokens, text_tokens=text_tokens, on_tokens=progress,
        )  # fmt: skip
    with steps_bar() as step:
        written = write_outputs(analysis, outputs, chosen, on_file=step)
    if as_json:
        print(json.dumps({**tables_json(analysis, chosen), "files": [str(path) for path in written]}))
    else:
        if sys.stdout.isatty():
            _show(analysis, chosen)
        _print(analysis, chosen)
        for path in written:
            print(path)


def _show(analysis: Analysis, layers: Sequence[int]) -> None:
    """The texts in a terminal, each token on the colour of its first expert."""
    from rich.console import Console
    from rich.text import Text

    from octuor.routing.colours import INK, expert_tint

    console = Console(highlight=False)
    for block in analysis.blocks:
        for layer in layers:
            console.print(f"\n{block.name}, layer {layer}", style="bold", markup=False)
            text = Text()
            for piece, expert in zip(block.routing.pieces, block.routing.experts[:, layer, 0], strict=True):
                text.append(
                    piece.replace("\x1b", "\N{SYMBOL FOR ESCAPE}"), style=f"{INK} on {expert_tint(int(expert))}"
                )
            console.print(text)
    legend = Text("\n")
    for expert in range(analysis.config.n_experts):
        legend.append(f" expert {expert} ", style=f"{INK} on {expert_tint(expert)}")
    console.print(legend, end="\n\n")


def _print(analysis: Analysis, layers: Sequence[int]) -> None:
    """Table 5: neighbours with the same expert, a row a domain, beside chance; then how fast it ran."""
    from octuor.tools.routing.tables import overlap_name

    first = analysis.tallies[0]
    choices = range(1, min(first.n_choices, 2) + 1)
    width = max(len("random"), *(len(tally.name) for tally in analysis.tallies))
    cell = max(10, -(-(len("first or second") + 2) // len(layers)))
    columns = [(n, layer) for n in choices for layer in layers]

    def row(name: str, tokens: str, cells: Iterable[str]) -> str:
        return f"{name:{width}}  {tokens:>8}" + "".join(text.rjust(cell) for text in cells)

    print("neighbouring tokens with the same expert")
    print(f"{'':{width}}  {'':>8}" + "".join(overlap_name(n).rjust(cell * len(layers)) for n in choices))
    print(row("domain", "tokens", (f"layer {layer}" for _, layer in columns)))
    for tally in analysis.tallies:
        shares = (f"{100 * tally.repetition(n)[layer]:.1f} %" for n, layer in columns)
        print(row(tally.name, f"{tally.n_tokens:,}", shares))
    print(row("random", "", (f"{100 * first.random_repetition(n):.1f} %" for n, _ in columns)))
    rate = analysis.n_tokens / analysis.seconds
    print(f"{analysis.n_tokens:,} tokens in {analysis.seconds:.1f} s, {rate:,.0f} tokens/s")
