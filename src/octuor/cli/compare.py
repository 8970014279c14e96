"""octuor compare: two evaluations side by side, document by document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.evaluate.compare import Pair


def main(
    first: Annotated[str, typer.Argument(help="A result.json of octuor eval, its folder, or a model.")],
    second: Annotated[str, typer.Argument(help="The same, of what it is compared with.")],
    tasks: Annotated[str, typer.Option(help="What models are evaluated on; names with commas between.")] = "perplexity",
    data: Annotated[Optional[Path], typer.Option(help="The folder with the tasks' files.")] = None,  # noqa: UP045
    text: Annotated[Optional[Path], typer.Option(help="What perplexity is of; default: Octuor's own text.")] = None,  # noqa: UP045
    limit: Annotated[Optional[int], typer.Option(min=1, help="Documents of each task at most.")] = None,  # noqa: UP045
    shots: Annotated[int | None, typer.Option(min=0, help="Examples before a question; default: the task's.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the models' chat format.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder for compare.html and compare.json, and for evaluations that are run."),
    ] = None,
    threads: options.Threads = None,
    memory: options.Memory = None,
    as_json: options.Json = False,
) -> None:
    """Compare two evaluations: differences with 95 % intervals, and whether they could be chance."""
    from octuor.api import load
    from octuor.cli.eval import with_rate
    from octuor.cli.progress import steps_bar
    from octuor.evaluate.compare import compare, comparison_json, evaluations, write_comparison
    from octuor.evaluate.setting import Setting

    with steps_bar() as show:
        setting = Setting(data, limit, seed, chat, shots, text=text, tell=with_rate(show))
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        a, b = evaluations(
            (first, second),
            names,
            setting,
            out=out,
            open_model=lambda source: load(source, threads=threads, memory=memory),
        )
    pairs = compare(a, b)
    if out is not None:
        write_comparison(a, b, pairs, out)
    if as_json:
        print(json.dumps(comparison_json(a, b, pairs)))
    else:
        _print(pairs)
        if out is not None:
            print(f"report: {out / 'compare.html'}")


def _print(pairs: list[Pair]) -> None:
    for pair in pairs:
        bounds = "" if pair.low is None else f"  {pair.low:+.4g} to {pair.high:+.4g}"
        p = "" if pair.p is None else f"  p {pair.p:.3g} ({pair.test})"
        values = f"{pair.first:10.4g} {pair.second:10.4g} {pair.difference:+10.4g}"
        print(f"{pair.task:20} {pair.metric:24} {values}{bounds}{p}")
