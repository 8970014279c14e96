"""The requests of a row, made before they are sent: bodies of JSON from prompts and lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from octuor.bench.serve.exchange import Call
from octuor.bench.serve.lengths import Lengths
from octuor.bench.serve.words import Prompt, Prompts
from octuor.errors import RequestError

Endpoint = Literal["chat", "completions"]
LOOKED_FOR = '"prompt" (a text or token ids) or "messages"'


@dataclass(frozen=True)
class Shape:
    """What all requests of a test have in common.

    ignore_eos, min_tokens  ask for answers of full length, in the two ways that servers know
    extra                   other fields of the body
    """

    endpoint: Endpoint
    model: str
    answer: Lengths
    ignore_eos: bool = False
    min_tokens: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def call(self, prompt: Prompt, answer_tokens: int) -> Call:
        """The request that asks for so many tokens after this prompt."""
        body: dict[str, Any] = {"model": self.model}
        if self.endpoint == "completions":
            body["prompt"] = prompt.content
        elif isinstance(prompt.content, str):
            body["messages"] = [{"role": "user", "content": prompt.content}]
        else:
            body["messages"] = prompt.content
        body |= {"max_tokens": answer_tokens, "stream": True, "stream_options": {"include_usage": True}}
        if self.ignore_eos:
            body["ignore_eos"] = True
        if self.min_tokens:
            body["min_tokens"] = answer_tokens
        return Call(json.dumps(body | dict(self.extra)).encode(), prompt.n_tokens)


def drawn_calls(shape: Shape, prompts: Prompts, lengths: Lengths, rng: np.random.Generator) -> Iterator[Call]:
    """Requests at random, without end."""
    while True:
        yield shape.call(prompts.make(lengths.draw(rng), rng), shape.answer.draw(rng))


@dataclass(frozen=True)
class Line:
    """A line of a file of prompts; max_tokens None: the test's own lengths."""

    prompt: Prompt
    max_tokens: int | None


def read_dataset(path: Path, endpoint: Endpoint) -> list[Line]:
    """JSON lines with "prompt" or "messages", and "max_tokens" if it is to differ. Raises RequestError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--dataset: expected a file of JSON lines, {path}: {error}") from error
    found = [_line(text, endpoint, f"{path}:{n}") for n, text in enumerate(lines, 1) if text.strip()]
    if not found:
        raise RequestError(f"--dataset: expected JSON lines with {LOOKED_FOR}, {path} has none")
    return found


def _line(text: str, endpoint: Endpoint, where: str) -> Line:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise RequestError(f"{where}: expected a JSON object, found {text[:40]!r}") from error
    content = (row.get("prompt") or row.get("messages")) if isinstance(row, dict) else None
    if not isinstance(content, str | list) or not content:
        raise RequestError(f"{where}: expected {LOOKED_FOR}, found {text[:40]!r}")
    ids = isinstance(content, list) and all(isinstance(item, int) for item in content)
    if isinstance(content, list) and (ids if endpoint == "chat" else not ids):
        kind, other = ("token ids", "completions") if ids else ("messages", "chat")
        raise RequestError(f"{where}: expected no {kind} for --endpoint {endpoint}; use --endpoint {other}")
    limit = row.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise RequestError(f"{where}: max_tokens: expected a whole number above 0, found {limit!r}")
    return Line(Prompt(content, len(content) if ids else None), limit)


def dataset_calls(shape: Shape, lines: Sequence[Line], rng: np.random.Generator) -> Iterator[Call]:
    """The lines in their order, then again from the first, without end."""
    for line in cycle(lines):
        limit = shape.answer.draw(rng) if line.max_tokens is None else line.max_tokens
        yield shape.call(line.prompt, limit)


def parse_extra(option: str, text: str) -> dict[str, Any]:
    """A JSON object as it is written on a command line. Raises RequestError."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(f"{option}: expected a JSON object, found {text!r}")
    return found
