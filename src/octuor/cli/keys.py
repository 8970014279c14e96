"""octuor keys: who may use this machine's servers, how much, and what they have used."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.accounts import Key, UsageRow

WIDE = 10_000  # characters: tables are never cut, whatever the terminal; half an id is no use
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make and revoke API keys for `octuor serve`, and show what they have used.",
)

PerMinute = Annotated[Optional[int], typer.Option(min=1, help="Default: no limit.")]  # noqa: UP045


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, for lists and logs.")],
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    models: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Names of the models it may use, commas between; default: all."),
    ] = None,
    expires: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="2027-01-01: good until that day begins (UTC); or a time from now: 12h, 30d, 8w."),
    ] = None,
) -> None:
    """Make a key and print it, alone, on stdout. It is kept nowhere else."""
    from octuor.accounts import open_store

    expires_at = None if expires is None else parse_expiry(expires, datetime.now(UTC))
    with open_store() as store:
        secret, key = store.create_key(
            name,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            models=None if models is None else [word.strip() for word in models.split(",") if word.strip()],
            expires_at=None if expires_at is None else int(expires_at.timestamp()),
        )
        where = store.path
    print(secret)
    terms = "; ".join(_terms(key))
    print(f"octuor: key {key.name!r} is in {where}{f' ({terms})' if terms else ''}", file=sys.stderr)
    print("octuor: this is the only time that it is shown; servers know it within a second", file=sys.stderr)


@app.command("list")
def list_keys(as_json: options.Json = False) -> None:
    """List all keys that were ever made: how they begin, their limits, and whether they are still good."""
    from octuor.accounts import open_store

    now = datetime.now(UTC)
    with open_store() as store:
        keys = store.list_keys()
    if as_json:
        print(json.dumps({"keys": [_key_json(key, now) for key in keys]}))
    elif not keys:
        print("octuor: no keys; octuor keys create NAME makes one", file=sys.stderr)
    else:
        rows = [(key.id + "…", key.name, _day(key.created_at), _state(key, now), *_limits(key)) for key in keys]
        _print_table(["key", "name", "made", "state", "models", "requests/min", "tokens/min"], rows, n_texts=5)


@app.command()
def revoke(who: Annotated[str, typer.Argument(metavar="NAME|ID", help="As `octuor keys list` shows them.")]) -> None:
    """End a key for ever. What it has used stays on record; answers under way go on."""
    from octuor.accounts import open_store

    with open_store() as store:
        for key in store.revoke(who):
            print(f"octuor: revoked {key.name!r} ({key.id}…); servers know within a second", file=sys.stderr)


@app.command()
def usage(
    name: Annotated[Optional[str], typer.Argument(metavar="[NAME|ID]", help="Default: everybody.")] = None,  # noqa: UP045
    days: Annotated[int, typer.Option(min=1, max=100_000, help="How many, today (UTC) among them.")] = 30,
    as_json: options.Json = False,
) -> None:
    """Show requests and tokens by day, key and model. Requests without a key are under the name "local"."""
    from octuor.accounts import open_store

    since = datetime.now(UTC).date() - timedelta(days=days - 1)
    with open_store() as store:
        rows = store.usage(name, since=since)
    if as_json:
        print(json.dumps({"since": since.isoformat(), "usage": [asdict(row) for row in rows]}))
    elif not rows:
        print(f"octuor: nothing was used since {since}", file=sys.stderr)
    else:
        _print_usage(rows)


def parse_expiry(text: str, now: datetime) -> datetime:
    """When "2027-01-01", "12h", "30d" or "8w" is; AccountError if it is none of these, or over."""
    from octuor.errors import AccountError

    try:
        if text[-1:] in UNITS:
            at = now + int(text[:-1]) * UNITS[text[-1]]
        else:
            at = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    except (ValueError, OverflowError) as error:
        raise AccountError(
            f"--expires: expected a date such as 2027-01-01 or a time such as 12h, 30d or 8w, found {text!r}",
            kind="state",
        ) from error
    if at <= now:
        raise AccountError(f"--expires: expected a time to come, found {text!r}, which is over", kind="state")
    return at


def _terms(key: Key) -> list[str]:
    terms = []
    if key.requests_per_minute is not None:
        terms.append(f"{key.requests_per_minute:,} requests a minute")
    if key.tokens_per_minute is not None:
        terms.append(f"{key.tokens_per_minute:,} tokens a minute")
    if key.models is not None:
        terms.append(f"models {', '.join(sorted(key.models))}")
    if key.expires_at is not None:
        terms.append(f"expires {datetime.fromtimestamp(key.expires_at, UTC):%Y-%m-%d %H:%M} UTC")
    return terms


def _state(key: Key, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.expires_at is None:
        return "good"
    return f"{'expired' if key.is_expired(now.timestamp()) else 'good until'} {_day(key.expires_at)}"


def _limits(key: Key) -> tuple[str, str, str]:
    models = "all" if key.models is None else ", ".join(sorted(key.models))
    requests, tokens = ("-" if n is None else f"{n:,}" for n in (key.requests_per_minute, key.tokens_per_minute))
    return models, requests, tokens


def _key_json(key: Key, now: datetime) -> dict[str, Any]:
    """Of a key for programs: times as ISO 8601, in UTC."""
    values = asdict(key)
    for name in ("created_at", "expires_at", "revoked_at"):
        if values[name] is not None:
            values[name] = datetime.fromtimestamp(values[name], UTC).isoformat()
    values["models"] = None if key.models is None else sorted(key.models)
    values["good"] = key.revoked_at is None and not key.is_expired(now.timestamp())
    return values


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _print_usage(rows: list[UsageRow]) -> None:
    def figures(of: list[UsageRow]) -> list[str]:
        names = ("requests", "errors", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens")
        return [f"{sum(getattr(row, name) for row in of):,}" for name in names]

    table = [(row.day, row.name, row.model, *figures([row])) for row in rows]
    if len(rows) > 1:
        table.append(("all", "", "", *figures(rows)))
    headings = ["day", "name", "model", "requests", "errors", "cancelled", "prompt", "cached", "completion"]
    _print_table(headings, table, n_texts=3)


def _print_table(headings: list[str], rows: Sequence[tuple[str, ...]], n_texts: int) -> None:
    """The first n_texts columns are texts, to the left; the others are numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < n_texts else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False, width=WIDE).print(table)
