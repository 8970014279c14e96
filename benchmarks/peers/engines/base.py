"""What an engine under measurement is, and what they share: requests, rows, child processes, environments.

Every measurement is a child process that loads the model, measures the rows asked for and ends, so that engines never
share memory, threads or an interpreter. Nothing here or in the engines imports octuor or a peer at import time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

HERE = Path(__file__).resolve().parent.parent
TAIL_LINES = 12  # of a failed child's stderr
ANSWER = "rows: "  # what a child's answer begins with; libraries print around it

Kind = Literal["prompt", "answer"]


class EngineError(Exception):
    """An engine could not be installed, fed or measured; says what was run and the last lines it wrote."""


@dataclass(frozen=True)
class Subject:
    """What is measured: so many layers of Mixtral 8x7B in one of Octuor's formats, on so many threads.

    work  folder for environments and models, outside the repository
    """

    layers: int
    format_name: str
    threads: int
    work: Path


@dataclass(frozen=True)
class Request:
    """Rows wanted: prompts of these lengths, and answers of `answer` tokens at these batch sizes."""

    prompts: tuple[int, ...] = ()
    answer: int = 64
    batches: tuple[int, ...] = ()

    def split(self) -> Iterator[Request]:
        """One request a row, for the finest interleaving."""
        for n in self.prompts:
            yield replace(self, prompts=(n,), batches=())
        for n in self.batches:
            yield replace(self, prompts=(), batches=(n,))


@dataclass(frozen=True)
class Row:
    """Tokens a second of all streams together. tokens: of the prompt, or of each answer; batch: streams."""

    kind: Kind
    tokens: int
    batch: int
    tokens_per_s: float


class Engine(Protocol):
    """One engine at one setting."""

    name: str

    def install(self) -> None:
        """Make its environment if it is not there; network allowed."""

    def prepare(self, subject: Subject) -> int:
        """Make its model of the subject if it is not there; its bytes, 0 if weights are drawn when it starts."""

    def describe(self) -> str:
        """Versions and settings in one line, without paths."""

    def measure(self, request: Request) -> list[Row]:
        """Run once, in a child process. Raises EngineError."""


def run_child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    name: str = "",
    with_stderr: bool = False,
) -> str:
    """stdout of a command, stderr after it if wanted; EngineError if it fails or cannot be started."""
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EngineError(f"{name or command[0]}: expected a program to run, found {error}") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-TAIL_LINES:])
        shown = " ".join([Path(command[0]).name, *command[1:]])
        raise EngineError(f"{name or command[0]}: exit status {done.returncode} of `{shown}`:\n{tail}")
    return done.stdout + done.stderr if with_stderr else done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment for one peer."""

    path: Path

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def install(self, packages: Sequence[str], imports: str) -> None:
        """Create it and pip install the packages, unless the module `imports` can be imported in it."""
        if not Path(self.python).exists():
            venv.create(self.path, with_pip=True)
        found = subprocess.run([self.python, "-c", f"import {imports}"], capture_output=True, check=False)
        if found.returncode:
            run_child([self.python, "-m", "pip", "install", *packages], name=f"install {imports}")

    def version(self, package: str) -> str:
        """Version of an installed package."""
        code = f"from importlib.metadata import version; print(version({package!r}))"
        return run_child([self.python, "-c", code], name=package).strip()

    def run_module(self, module: str, *args: str, env: Mapping[str, str] | None = None) -> str:
        """stdout of `python -m module args` among these scripts."""
        return run_child([self.python, "-m", module, *args], env=env, cwd=HERE, name=module)


@dataclass
class PackagedEngine:
    """What engines that pip can install share; each measures in its own module, run inside its environment.

    type_name  ggml's type, None: by the subject's format
    gguf       a file to use instead of making one
    """

    environment_path: Path
    type_name: str | None = None
    gguf: Path | None = None
    name: str = ""
    _subject: Subject | None = None

    @property
    def environment(self) -> Environment:
        """The virtual environment at environment_path."""
        return Environment(self.environment_path)

    def run(self, request: Request, model: Path | None = None) -> str:
        """What the engine's module answers; `prepare` came before."""
        assert self._subject is not None
        path = "" if model is None else str(model.resolve())
        return run_inside(self.environment, type(self).__module__, self._subject, request, path)


def run_inside(environment: Environment, module: str, subject: Subject, request: Request, model: str = "") -> str:
    """What an engine's own module answers in its environment; there it calls `read_inside` and `answer`."""
    given = {"model": model, "layers": subject.layers, "format": subject.format_name, "threads": subject.threads}
    text = environment.run_module(
        module, json.dumps(given | asdict(request)), env={"OMP_NUM_THREADS": str(subject.threads)}
    )
    answers = [line.removeprefix(ANSWER) for line in text.splitlines() if line.startswith(ANSWER)]
    if len(answers) != 1:
        raise EngineError(f"{module}: expected one line with {ANSWER!r}, found {len(answers)} in {text[-200:]!r}")
    return answers[0]


def parse_rows(text: str) -> list[Row]:
    """The rows that a child answered."""
    return [Row(**row) for row in json.loads(text)]


def read_inside() -> tuple[dict[str, Any], Request]:
    """In the child: what `run_inside` gave."""
    given = json.loads(sys.argv[1])
    request = Request(tuple(given.pop("prompts")), given.pop("answer"), tuple(given.pop("batches")))
    return given, request


def answer(rows: Sequence[Row] | float) -> None:
    """In the child: the answer, on a line of its own."""
    found = rows if isinstance(rows, float) else [asdict(row) for row in rows]
    print(f"\n{ANSWER}{json.dumps(found)}", flush=True)
