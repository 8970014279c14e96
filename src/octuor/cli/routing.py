"""octuor routing: which experts play which texts, with the Mixtral paper's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    from octuor.cli.progress import PromptBar, tokens_bar
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
    written = write_outputs(analysis, outputs, chosen)
    if as_json:
        print(json.dumps({**tables_json(analysis, chosen), "files": [str(path) for path in written]}))
    else:
        _print(analysis, chosen)
        for path in written:
            print(path)


def _print(analysis: Analysis, layers: Sequence[int]) -> None:
    """Table 5: neighbours with the same expert, a row a domain, beside chance; then how fast it ran."""
    from octuor.tools.routing.tables import overlap_name

    first = analysis.tallies[0]
    choices = range(1, min(first.n_choices, 2) + 1)
    width = max(len("random"), *(len(tally.name) for tally in analysis.tallies))
    columns = [(n, layer) for n in choices for layer in layers]
    print("neighbouring tokens with the same expert")
    groups = "".join(overlap_name(n).rjust(10 * len(layers)) for n in choices)
    print(f"{'':{width}}  {'':>8}{groups}")
    print(f"{'domain':{width}}  {'tokens':>8}" + "".join(f"layer {layer}".rjust(10) for _, layer in columns))
    for tally in analysis.tallies:
        shares = (f"{100 * tally.repetition(n)[layer]:.1f} %".rjust(10) for n, layer in columns)
        print(f"{tally.name:{width}}  {tally.n_tokens:>8,}" + "".join(shares))
    chance = (f"{100 * first.random_repetition(n):.1f} %".rjust(10) for n, _ in columns)
    print(f"{'random':{width}}  {'':>8}" + "".join(chance))
    rate = analysis.n_tokens / analysis.seconds
    print(f"{analysis.n_tokens:,} tokens in {analysis.seconds:.1f} s, {rate:,.0f} tokens/s")
