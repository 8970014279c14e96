"""octuor bench serve: a load test of any OpenAI-compatible server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.bench.serve.run import Load, OnTick, Tick
    from octuor.bench.serve.session import Result, Settings

INTERRUPTED = 130  # exit status after Ctrl-C, as shells count it
PER_STREAM, SECONDS = 4, 60  # how long a row is when nobody says so
LATENCIES = {
    "first_token_s": "first token",
    "inter_token_s": "between pieces",
    "per_token_s": "per token",
    "request_s": "whole answer",
}


def main(
    address: Annotated[str | None, typer.Argument(metavar="URL", help="Such as http://127.0.0.1:8000.")] = None,
    url: Annotated[str | None, typer.Option(help="The same as an option.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the first that the server lists.")] = None,
    key: Annotated[str | None, typer.Option(envvar="OCTUOR_BENCH_KEY", help="An API key to send.")] = None,
    endpoint: Annotated[Literal["chat", "completions"], typer.Option(help="Which of the two routes.")] = "chat",
    concurrency: Annotated[
        str | None, typer.Option(help="Streams at once, a row each: 1,4,8,16 (default: 1,8).")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Or requests a second, at random times: 0.5,1,2.")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="In each row; default: 4 a stream.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Or seconds of each row; default with --rate: 60.")
    ] = None,
    prompt_tokens: Annotated[str, typer.Option(help="512, 256-768 or normal:512:64.")] = "512",
    answer_tokens: Annotated[str, typer.Option(help="At most so many; spelled the same.")] = "128",
    shared_prefix: Annotated[int, typer.Option(min=0, help="Tokens before each prompt that all share.")] = 0,
    prompt_ids: Annotated[bool, typer.Option("--prompt-ids", help="Prompts of token ids (completions).")] = False,
    vocabulary: Annotated[
        str, typer.Option(help="Which ids --prompt-ids draws: first, and past the last.")
    ] = "1000-32000",
    tokenizer: Annotated[str | None, typer.Option(help="A model here that counts tokens, not the server.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="JSON lines with prompt or messages, to send instead.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Send ignore_eos: answers of full length.")] = False,
    min_tokens: Annotated[bool, typer.Option("--min-tokens", help="Send min_tokens, for the same.")] = False,
    body: Annotated[str, typer.Option(help="Other fields to send: '{\"temperature\": 0}'.")] = "{}",
    warmup: Annotated[int, typer.Option(min=0, help="Requests before each row, not counted.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 600.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Of prompts, lengths and arrivals; default: new.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the rows into this .png or .svg.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a server under load: tokens a second, time to first token, time between tokens.

    Works with any server that speaks OpenAI's protocol. Ctrl-C ends the test and prints what there is.
    """
    from octuor.bench.serve.calls import parse_extra
    from octuor.bench.serve.lengths import parse_lengths
    from octuor.bench.serve.words import parse_vocabulary
    from octuor.errors import RequestError

    target = address or url
    if target is None or (address and url):
        raise RequestError("bench serve: expected one address, URL or --url, such as http://127.0.0.1:8000")
    if plot is not None:
        from octuor.bench.plot import check_plot

        check_plot(plot)
    from octuor.bench.serve.session import Settings

    settings = Settings(
        target,
        _loads(concurrency, rate, requests, duration, warmup),
        endpoint,
        model,
        key,
        parse_lengths("--prompt-tokens", prompt_tokens),
        parse_lengths("--answer-tokens", answer_tokens),
        shared_prefix,
        parse_vocabulary("--vocabulary", vocabulary) if prompt_ids else None,
        tokenizer,
        dataset,
        ignore_eos,
        min_tokens,
        parse_extra("--body", body),
        secrets.randbits(32) if seed is None else seed,
        timeout,
    )
    result = _run(settings)
    _finish(result, plot, as_json=as_json)


def _finish(result: Result, plot: Path | None, *, as_json: bool) -> None:
    from octuor.bench.serve.session import result_json

    report = result_json(result)
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)
    if plot is not None and any(row.whole for row in result.rows):
        from octuor.bench.serve.plot import plot_load

        plot_load(result, plot)
    if result.is_interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(row.whole for row in result.rows):
        raise typer.Exit(1)


def _loads(
    concurrency: str | None, rate: str | None, requests: int | None, duration: float | None, warmup: int
) -> list[Load]:
    from octuor.bench.serve.run import Load
    from octuor.errors import RequestError

    if concurrency and rate:
        raise RequestError("bench serve: expected --concurrency or --rate, found both; drop one")
    if requests and duration:
        raise RequestError("bench serve: expected --requests or --duration, found both; drop one")
    if rate:
        seconds = duration if duration or requests else SECONDS
        return [Load(None, each, requests, seconds, warmup) for each in _numbers("--rate", rate, float)]
    streams = _numbers("--concurrency", concurrency or "1,8", int)
    return [Load(n, None, requests if requests or duration else PER_STREAM * n, duration, warmup) for n in streams]


def _numbers(option: str, text: str, kind: Any) -> list[Any]:
    from octuor.errors import RequestError

    try:
        found = [kind(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise RequestError(f"{option}: expected numbers such as 1,4,8; found {text!r}") from error
    if not found or not all(0 < number < float("inf") for number in found):
        raise RequestError(f"{option}: expected numbers above 0, found {text!r}")
    return found


def _run(settings: Settings) -> Result:
    """The test, ended by Ctrl-C at the next opportunity."""
    import asyncio
    import signal

    from octuor.bench.serve.session import load_test

    async def test() -> Result:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        with _bar() as on_tick:
            loop.add_signal_handler(signal.SIGINT, stop.set)
            try:
                return await load_test(settings, stop=stop, on_tick=on_tick)
            finally:
                loop.remove_signal_handler(signal.SIGINT)

    return asyncio.run(test())


@contextmanager
def _bar() -> Iterator[OnTick]:
    """A line on stderr for the row under way, with rates; only in a terminal, and redrawn twice a second, as drawing
    takes time that the answers' timing has to share."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rates]}"))
    console = Console(stderr=True)
    progress = Progress(
        *columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
    )  # fmt: skip
    with progress:
        task = progress.add_task("", total=None, rates="")

        def on_tick(tick: Tick) -> None:
            if not progress.disable:
                progress.update(task, description=str(tick.load), **_drawn(tick))

        yield on_tick


def _drawn(tick: Tick) -> dict[str, Any]:
    """What the bar shows of a moment."""
    seconds, duration = tick.elapsed_s, tick.load.duration_s
    if not tick.is_warm or seconds <= 0:
        return {"completed": 0, "total": None, "rates": "warm-up"}
    done = f"{tick.done}/{tick.total}" if tick.total else f"{tick.done} in {seconds:.0f} s"
    failed = f", {tick.failed} failed" if tick.failed else ""
    rates = f"{done}, {tick.done / seconds:.2f} requests/s, {tick.n_chunks / seconds:.0f} pieces/s{failed}"
    total, completed = (tick.total, tick.done) if tick.total else (duration, min(seconds, duration or seconds))
    return {"completed": completed, "total": total, "rates": rates}


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{report['url']}, {report['model']}, {report['endpoint']}", markup=False)
    console.print(f"prompts of {report['prompts']}", markup=False)
    console.print(f"answers of {report['answers']}, seed {report['seed']}")
    console.print()
    console.print(_throughput(report["rows"]))
    console.print()
    console.print(_latencies(report["rows"]))
    for row in report["rows"]:
        for kind, error in row["errors"].items():
            console.print(f"{_load(row)}: {error['count']} x {kind}: {error['first']}", markup=False)
    console.print()
    _print_client(console, report["rows"])
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    if report["interrupted"]:
        console.print("note: interrupted: answers that had not come to their end are not counted")


def _print_client(console: Any, rows: list[dict[str, Any]]) -> None:
    share = max((row["client"]["cpu_share"] for row in rows), default=0.0)
    late = [row["client"]["late_s"]["p99"] for row in rows if row["client"]["late_s"]]
    lateness = f", late by {1e3 * max(late):.1f} ms at p99" if late else ""
    console.print(f"the client itself: {share:.1%} of a core{lateness}")
    counted = {row["counted_by"] for row in rows} - {None}
    if counted:
        console.print(f"tokens counted by {' and '.join(sorted(counted))}")


def _load(row: dict[str, Any]) -> str:
    return f"{row['rate']:g}/s" if row["concurrency"] is None else f"x{row['concurrency']}"


def _table(headings: list[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for n, heading in enumerate(headings):
        table.add_column(heading, justify="right" if n else "left", no_wrap=True)
    return table


def _throughput(rows: list[dict[str, Any]]) -> Any:
    table = _table(["tokens/s", "done", "failed", "requests/s", "prompts", "answers", "a stream"])
    for row in rows:
        stream = row["stream_tokens_per_s"]
        table.add_row(
            _load(row),
            f"{row['succeeded']}/{row['requests']}",
            str(sum(error["count"] for error in row["errors"].values())),
            _figure(row["requests_per_s"], 2),
            _figure(row["prompt_tokens_per_s"], 1),
            _figure(row["answer_tokens_per_s"], 1),
            _figure(stream and stream["p50"], 1),
        )
    return table


def _latencies(rows: list[dict[str, Any]]) -> Any:
    table = _table(["milliseconds", "", "mean", "p50", "p95", "p99", "max"])
    for name, label in LATENCIES.items():
        for row in rows:
            found = row[name] or {}
            cells = [found.get(key) for key in ("mean", "p50", "p95", "p99", "max")]
            table.add_row(label, _load(row), *(_figure(cell if cell is None else 1e3 * cell, 1) for cell in cells))
            label = ""
    return table


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
