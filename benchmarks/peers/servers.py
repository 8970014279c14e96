"""Servers to be measured side by side: how each is started for so many streams, and that only one runs at a time."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engines.base import EngineError, run_child

READY_S, STOP_S = 900.0, 60.0  # to load a model from a slow disk; to end
POLL_S = 0.1
TAIL_LINES = 15


class Server(Protocol):
    """One server at one setting."""

    @property
    def name(self) -> str:
        """As it is called in tables."""

    def command(self, port: int, streams: int, n_tokens: int) -> list[str]:
        """What starts it for so many streams of so many tokens each."""

    def describe(self) -> str:
        """Version, model and settings in one line."""


@dataclass(frozen=True)
class OctuorServer:
    """`octuor serve` by this interpreter. flags: more of its options."""

    model: Path
    threads: int
    flags: Sequence[str] = ("--resident",)
    name: str = "octuor"

    def command(self, port: int, streams: int, n_tokens: int) -> list[str]:  # noqa: ARG002 - one setting for all
        given = ["--port", str(port), "--threads", str(self.threads), *self.flags]
        return [sys.executable, "-m", "octuor", "serve", str(self.model), *given]

    def describe(self) -> str:
        import octuor

        size = self.model.stat().st_size / 1e9
        return f"octuor {octuor.__version__}, {self.model.name}, {size:.2f} GB, {' '.join(self.flags)}"


@dataclass(frozen=True)
class LlamaServer:
    """llama.cpp's server, built by the user, with a slot for each stream and room for all its tokens in each.

    words  path and flags
    """

    name: str
    words: Sequence[str]
    gguf: Path
    threads: int

    def command(self, port: int, streams: int, n_tokens: int) -> list[str]:
        slot = -(-n_tokens // 256) * 256
        options: dict[str, object] = {
            "-m": self.gguf,
            "--host": "127.0.0.1",
            "--port": port,
            "-t": self.threads,
            "-tb": self.threads,
            "-np": streams,
            "-c": streams * slot,
            "--cache-ram": 0,  # prompts are new, so that keeping old ones would only cost it
        }
        return [*self.words, *(str(word) for pair in options.items() for word in pair), "--cont-batching"]

    def describe(self) -> str:
        version = run_child([self.words[0], "--version"], with_stderr=True).splitlines()[0]
        shown = " ".join([Path(self.words[0]).name, *self.words[1:]])
        more = "-np STREAMS -c STREAMS*SLOT --cache-ram 0 --cont-batching"
        return f"{shown} {more}, {version}, {self.gguf.name}, {self.gguf.stat().st_size / 1e9:.2f} GB"


def parse_server(text: str) -> tuple[str, list[str]]:
    """`NAME=PATH FLAGS...` as a name and words."""
    name, equals, command = text.partition("=")
    words = shlex.split(command)
    if not equals or not words or not name.isidentifier():
        raise EngineError(f"expected NAME=PATH FLAGS... with a NAME of letters and digits, found {text!r}")
    return name, words


@contextmanager
def running(server: Server, streams: int, n_tokens: int) -> Iterator[str]:
    """The address of the server, started and ready; stopped at the end. Raises EngineError with its last words."""
    with tempfile.TemporaryDirectory() as home:
        log = Path(home) / "log"
        port = free_port()
        with log.open("wb") as out:
            process = subprocess.Popen(
                server.command(port, streams, n_tokens),
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OCTUOR_HOME": home},  # without the user's keys
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(server.name, process, url, log)
            yield url
            if process.poll() is not None:
                raise EngineError(f"{server.name}: ended with {process.returncode}:\n{_tail(log)}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise EngineError(f"{name}: ended with {process.returncode} before it was ready:\n{_tail(log)}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):  # not there yet, or 503: loading
            time.sleep(POLL_S)
    raise EngineError(f"{name}: expected it to be ready within {READY_S:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def free_port() -> int:
    """A port of the loopback address that nobody listens at now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
