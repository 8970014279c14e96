"""How tasks are run: what the caller decided, the same for all of them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from octuor.errors import RequestError

if TYPE_CHECKING:
    from octuor.evaluate.result import TaskResult
    from octuor.evaluate.subject import Subject

Tell = Callable[[str, int, int], None]  # what is at work, done, in all
PACKED = ("", ".xz", ".gz")


def say_nothing(what: str, done: int, total: int) -> None:
    """For callers who do not watch."""


@dataclass(frozen=True)
class Setting:
    """What decides a run beside model and tasks.

    data         the folder with the tasks' files
    limit        documents of each task at most, its first ones; None: all
    seed         of everything that is drawn
    chat         True: prompts are asked as a user's message, in the model's own chat format
    shots        examples before each question, where a task takes them; None: the task's own number
    n_samples    answers a problem, where a task draws several
    judge        address of an OpenAI-compatible server that grades; None: answers are not graded
    judge_model  its name there; None: the first that the server names
    judge_key    the server's API key
    is_unsafe    True: programs that the model wrote may run where nothing can isolate them
    tasks_dir    a folder of the harness's own task files
    out          the folder for files that tasks write beside the report; None: none are written
    text         what perplexities and divergences are of, UTF-8; None: Octuor's own text
    reference    a model to compare distributions with
    lexicon      words and their sentiment, a line each; None: VADER's
    cache_dtype  of keys and values: "f16" or "f32"
    longest      tokens of the longest passkey text
    """

    data: Path | None = None
    limit: int | None = None
    seed: int = 0
    chat: bool = False
    shots: int | None = None
    n_samples: int = 1
    judge: str | None = None
    judge_model: str | None = None
    judge_key: str | None = None
    is_unsafe: bool = False
    tasks_dir: Path | None = None
    out: Path | None = None
    text: Path | None = None
    reference: str | None = None
    lexicon: Path | None = None
    cache_dtype: str = "f16"
    longest: int = 32768
    tell: Tell = say_nothing

    def file(self, *names: str) -> Path:
        """The first of these files that the data folder has, plain, .xz or .gz. Raises RequestError."""
        if self.data is None:
            raise RequestError(f"data: expected the folder with {names[0]}, found none; name it with --data")
        for name in names:
            for ending in PACKED:
                path = self.data / (name + ending)
                if path.is_file():
                    return path
        raise RequestError(
            f"{self.data}: expected {' or '.join(names)} there (also .xz or .gz), found none; see --data"
        )

    def files(self, pattern: str) -> list[Path]:
        """All files of the data folder that match, in order. Raises RequestError where there are none."""
        if self.data is None:
            raise RequestError(f"data: expected the folder with {pattern}, found none; name it with --data")
        found = sorted(path for ending in PACKED for path in self.data.glob(pattern + ending))
        if not found:
            raise RequestError(f"{self.data}: expected files {pattern} there (also .xz or .gz), found none; see --data")
        return found


class Task(Protocol):
    """One evaluation. Adding one is a class and a row in registry.py."""

    name: str
    about: str

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """Ask, and work out the figures. Raises RequestError where the setting lacks what it needs."""


def read_text(path: Path) -> str:
    """A UTF-8 file, unpacked if its name ends in .xz or .gz. Raises RequestError."""
    try:
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        elif path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: expected a UTF-8 text, cannot read it ({error})") from error


def read_rows(path: Path, *fields: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON Lines file, each with at least these fields. Raises RequestError naming the line."""
    for number, line in enumerate(io.StringIO(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{path}:{number}: expected a JSON object, found {line[:40]!r} ({error})") from error
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise RequestError(f"{path}:{number}: expected the fields {', '.join(fields)}, found no {missing[0]}")
        yield row
