"""A whole load test: find the model, make prompts of the right length, run row after row, report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from octuor.bench.serve.calls import Endpoint, Shape, dataset_calls, drawn_calls, read_dataset
from octuor.bench.serve.client import Client, connect, server_root
from octuor.bench.serve.counting import local_count, server_count
from octuor.bench.serve.exchange import Call
from octuor.bench.serve.lengths import Lengths, Uniform
from octuor.bench.serve.report import SERVER, Row, read_row, row_json
from octuor.bench.serve.run import Load, OnTick, run_row
from octuor.bench.serve.words import Count, Prompts, RandomIds, find_words, guessed_words
from octuor.errors import RequestError

BUSY = 0.5  # share of a core from which on the client may be what limits
ABOUT = "prompts have about as many tokens as asked for; give --tokenizer or --prompt-ids"
KNOWN = 0.1  # share of prompts in the server's cache from which on they were not new to it
OFF = 0.05  # by which the server's count of a prompt may differ from ours


@dataclass(frozen=True)
class Settings:
    """A load test.

    model          None: the first that the server lists
    shared_prefix  tokens before each prompt that all have in common
    ids            prompts of token ids in this range; None: of words
    tokenizer      who counts tokens in place of the server: a pack, a folder, a Hub id, a tokenizer's file
    dataset        a file of prompts in place of random ones
    extra          other fields of every request
    seed           of prompts, lengths and arrivals. A server that keeps prompts in its cache knows them the second time
    """

    url: str
    loads: Sequence[Load]
    endpoint: Endpoint = "chat"
    model: str | None = None
    key: str | None = None
    prompt: Lengths = field(default_factory=lambda: Uniform(512, 512))
    answer: Lengths = field(default_factory=lambda: Uniform(128, 128))
    shared_prefix: int = 0
    ids: range | None = None
    tokenizer: str | None = None
    dataset: Path | None = None
    ignore_eos: bool = False
    min_tokens: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    timeout_s: float = 600.0


@dataclass(frozen=True)
class Result:
    """A test's rows, and what a reader must know of them: prompts in words, and notes."""

    settings: Settings
    model: str
    prompts: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    is_interrupted: bool


async def load_test(settings: Settings, *, stop: asyncio.Event, on_tick: OnTick | None = None) -> Result:
    """Run all rows, one after another; each has prompts of its own.

    stop  when it is set, the row under way ends as it is, and no other begins

    Raises RequestError where there is no server or no such model, and what local_count and read_dataset raise.
    """
    check(settings)
    async with connect(settings.url, settings.endpoint, key=settings.key, timeout_s=settings.timeout_s) as client:
        model = await find_model(client, settings)
        source = await _source(client, settings, model)
        rows = []
        for n, load in enumerate(settings.loads):
            if stop.is_set():
                break
            rng = np.random.default_rng([settings.seed, n])
            found = await run_row(client, source.calls(rng), load, rng, stop=stop, on_tick=on_tick)
            rows.append(read_row(found))
    notes = (*source.notes, *_notes(rows, settings))
    return Result(settings, model, source.description, tuple(rows), notes, stop.is_set())


def check(settings: Settings) -> None:
    """Raise RequestError on what cannot be run, before anything is sent."""
    server_root(settings.url)
    if settings.ids is not None and settings.endpoint == "chat":
        raise RequestError("--prompt-ids: expected --endpoint completions, as a chat takes no token ids")
    if settings.dataset is not None and (settings.ids is not None or settings.tokenizer is not None):
        raise RequestError("--dataset: expected no --prompt-ids and no --tokenizer beside it; drop them")
    if settings.dataset is not None and settings.shared_prefix:
        raise RequestError("--dataset: expected no --shared-prefix beside it; drop it")


async def find_model(client: Client, settings: Settings) -> str:
    """The model that was named, or the first that the server lists. Raises RequestError."""
    reply = await client.ask("GET", "/v1/models")
    if settings.model is not None:
        return settings.model
    try:
        return str(reply.body["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise RequestError(
            f"{settings.url}: expected a list of models at /v1/models, found HTTP {reply.status}; "
            "name the model with --model, and a key with --key if the server wants one"
        ) from error


@dataclass(frozen=True)
class _Source:
    """Where a test's requests come from."""

    shape: Shape
    description: str
    notes: tuple[str, ...] = ()
    prompts: Prompts | None = None
    lengths: Lengths | None = None
    dataset: Path | None = None

    def calls(self, rng: np.random.Generator) -> Iterator[Call]:
        if self.dataset is not None:
            return dataset_calls(self.shape, read_dataset(self.dataset, self.shape.endpoint), rng)
        assert self.prompts is not None
        assert self.lengths is not None
        return drawn_calls(self.shape, self.prompts, self.lengths, rng)


async def _source(client: Client, settings: Settings, model: str) -> _Source:
    shape = Shape(
        settings.endpoint, model, settings.answer, settings.ignore_eos, settings.min_tokens, settings.extra
    )  # fmt: skip
    if settings.dataset is not None:
        n = len(read_dataset(settings.dataset, settings.endpoint))
        return _Source(shape, f"{n} of {settings.dataset.name}", dataset=settings.dataset)
    prompts, kind, notes = await _prompts(client, settings, model)
    if settings.shared_prefix:
        prompts = prompts.after(settings.shared_prefix, np.random.default_rng([settings.seed, len(settings.loads)]))
        kind += f", after {settings.shared_prefix} that all share"
    return _Source(shape, f"{settings.prompt} tokens ({kind})", notes, prompts, settings.prompt)


async def _prompts(client: Client, settings: Settings, model: str) -> tuple[Prompts, str, tuple[str, ...]]:
    """Prompts, how they are made, and what is wrong with them."""
    if settings.ids is not None:
        return RandomIds(settings.ids), "random ids", ()
    count: Count | None
    if settings.tokenizer is not None:
        count = local_count(settings.tokenizer, settings.endpoint)
    else:
        count = await server_count(client, settings.endpoint, model)
    if count is None:
        return guessed_words(), "words", (f"the server has no /tokenize: {ABOUT}",)
    words = await find_words(count)
    who = "the server's /tokenize" if settings.tokenizer is None else Path(settings.tokenizer).name
    return words, f"words, counted by {who}", () if words.is_exact else (f"English words are no tokens here: {ABOUT}",)


def _notes(rows: Sequence[Row], settings: Settings) -> list[str]:
    notes = []
    found = [row_json(row) for row in rows]
    share = max((row["client"]["cpu_share"] for row in found), default=0.0)
    if share > BUSY:
        notes.append(
            f"the client took up to {share:.0%} of a core: figures may be its own limit; run it on another machine"
        )
    if any(row["counted_by"] not in (None, SERVER) for row in found):
        notes.append("the server sends no usage: each piece of text is counted as one token")
    is_new = not settings.shared_prefix and settings.dataset is None
    if is_new and any((row["cached_tokens"] or 0) > KNOWN * (row["prompt_tokens"] or 0) for row in found):
        notes.append("the server had parts of prompts in its cache already: use another --seed")
    counts = [(answer.planned_tokens or 0, answer.prompt_tokens or 0) for row in rows for answer in row.whole]
    ours, theirs = sum(pair[0] for pair in counts), sum(pair[1] for pair in counts)
    if ours and abs(theirs - ours) > OFF * ours:
        notes.append(f"prompts have {theirs / ours:.2f} times the tokens asked for, by the server's count")
    if any("timeout" in row["errors"] for row in found):
        notes.append(f"requests longer than --timeout {settings.timeout_s:g} were ended")
    return notes


def result_json(result: Result) -> dict[str, Any]:
    """The one object that `octuor bench serve --json` prints."""
    settings = result.settings
    return {
        "url": server_root(settings.url),
        "endpoint": settings.endpoint,
        "model": result.model,
        "prompts": result.prompts,
        "answers": str(settings.answer),
        "seed": settings.seed,
        "interrupted": result.is_interrupted,
        "notes": list(result.notes),
        "rows": [row_json(row) for row in result.rows],
    }
