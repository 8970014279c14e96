"""The `octuor` command for tests: inside this process, or as a program of its own."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

from octuor.cli import main

# SIGINT raises KeyboardInterrupt even where the tests were started in the background, with SIGINT ignored
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from octuor.cli import main
main()
"""


class Done(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: object
    out: str
    err: str


class Terminal(io.StringIO):
    """Standard input where somebody types; input() is the test's to replace."""

    def isatty(self) -> bool:
        return True


def octuor(*args: object, stdin: str | bytes | None = "") -> Done:
    """Run the command line in this process; whatever is no proper exit comes through.

    stdin  what a pipe brings; None: a terminal
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    pipe = Terminal() if data is None else io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        patch.object(sys, "argv", ["octuor", *map(str, args)]),
        patch.object(sys, "stdin", pipe),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())


def program(*args: object) -> list[str]:
    """The same as a command for subprocess."""
    return [sys.executable, "-c", PROGRAM, *map(str, args)]


def environment() -> dict[str, str]:
    """This process's environment and import path, for a child in any folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TERM": "dumb"}
