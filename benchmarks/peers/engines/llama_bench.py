"""llama-bench and llama-batched-bench of llama.cpp or a descendant, as programs that the user has built.

Prompts and single answers come from llama-bench, answers of several streams from llama-batched-bench. Some descendants'
llama-batched-bench feeds token 0 to every stream: all streams then meet the same two experts and its rows are too good
by a factor. Make such a program feed random tokens before believing it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.base import EngineError, Request, Row, Subject, run_child

PROMPT_BEFORE = 16  # tokens in each stream before its answer; llama-bench has none


def parse_program(text: str) -> tuple[str, list[str]]:
    """`NAME=PATH FLAGS...` as a name and words."""
    name, equals, command = text.partition("=")
    words = shlex.split(command)
    if not equals or not words or not name.isidentifier():
        raise EngineError(f"expected NAME=PATH FLAGS... with a NAME of letters and digits, found {text!r}")
    return name, words


def take_model(words: list[str]) -> tuple[Path | None, list[str]]:
    """The path after -m, if there is one, and the other words."""
    if "-m" not in words[:-1]:
        return None, words
    at = words.index("-m")
    return Path(words[at + 1]), words[:at] + words[at + 2 :]


@dataclass
class LlamaBench:
    """A pair of programs with their flags, over a GGUF that another engine has made or the user names."""

    name: str
    bench: list[str]
    batched: list[str] | None
    gguf: Path
    _subject: Subject | None = None

    def install(self) -> None:
        """The user has built them."""

    def prepare(self, subject: Subject) -> int:
        self._subject = subject
        if not self.gguf.exists():
            raise EngineError(
                f"{self.name}: expected a GGUF at {self.gguf}, found none; use --peer llama_cpp or --gguf"
            )
        return self.gguf.stat().st_size

    def describe(self) -> str:
        programs = [self.bench, *([self.batched] if self.batched else [])]
        return f"{self.gguf.name}: " + "; ".join(" ".join([Path(words[0]).name, *words[1:]]) for words in programs)

    def measure(self, request: Request) -> list[Row]:
        rows = self._measure_single(request)
        several = [n for n in request.batches if n > 1]
        if several and self.batched is not None:
            rows += self._measure_batched(self.batched, request.answer, several)
        return rows

    def _measure_single(self, request: Request) -> list[Row]:
        assert self._subject is not None
        if not request.prompts and 1 not in request.batches:
            return []
        options = {
            "-m": self.gguf.resolve(),
            "-t": self._subject.threads,
            "-r": 1,
            "-o": "json",
            "-p": ",".join(map(str, request.prompts or (0,))),
            "-n": request.answer if 1 in request.batches else 0,
        }
        text = run_child([*self.bench, *_words(options)], name=self.name)
        return parse_bench(text)

    def _measure_batched(self, batched: list[str], answer: int, batches: list[int]) -> list[Row]:
        assert self._subject is not None
        options = {
            "-m": self.gguf.resolve(),
            "-t": self._subject.threads,
            "-tb": self._subject.threads,
            "-c": max(batches) * (PROMPT_BEFORE + answer) + 256,
            "-npp": PROMPT_BEFORE,
            "-ntg": answer,
            "-npl": ",".join(map(str, batches)),
        }
        text = run_child(
            [*batched, *_words(options)],
            name=self.name,
            cwd=self._subject.work,  # some write a log where they are
            with_stderr=True,  # and their table to stderr
        )
        return parse_batched(text)


def _words(options: Mapping[str, object]) -> list[str]:
    return [str(word) for pair in options.items() for word in pair]


def parse_bench(text: str) -> list[Row]:
    """Rows of llama-bench's JSON; anything before its first bracket is noise of the loader."""
    try:
        found = json.loads(text[text.index("[\n") :])
    except ValueError as error:
        raise EngineError(f"llama-bench: expected a JSON array, found {text[:200]!r}") from error
    return [
        Row("prompt", row["n_prompt"], 1, row["avg_ts"])
        if row["n_prompt"]
        else Row("answer", row["n_gen"], 1, row["avg_ts"])
        for row in found
    ]


def parse_batched(text: str) -> list[Row]:
    """Rows of llama-batched-bench's table: |PP|TG|B|N_KV|T_PP|S_PP|T_TG|S_TG|T|S|."""
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 10 and cells[0].isdigit():
            rows.append(Row("answer", int(cells[1]), int(cells[2]), float(cells[7])))
    if not rows:
        raise EngineError(f"llama-batched-bench: expected a table, found {text[-200:]!r}")
    return rows
