"""Programs that a model wrote, run where they can do no harm: docs/evaluation.md says what they may and may not.

Each runs in a process of its own, without network, without files but its own folder in memory, under limits of time,
memory, file size and processes, and with nothing of our environment (sandbox_launcher.py). Where the system has no
namespaces for users, nothing runs unless the caller said that it may.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from octuor.errors import BackendError
from octuor.evaluate.sandbox_launcher import NOT_ISOLATED

LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
PROGRAM = "program.py"
SHOWN = 2000  # characters of what a program printed that are kept


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    processes  at once, threads included
    """

    seconds: float = 5.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    processes: int = 16


@dataclass(frozen=True)
class Outcome:
    """How a program ended: "passed" only if it came to its last line. output: the end of what it printed."""

    result: str
    output: str


class Sandbox:
    """Runs programs, some at a time.

    is_unsafe  True: where nothing can isolate them they run all the same, under the limits alone

    Raises BackendError where nothing can isolate them and nobody said that they may run.
    """

    def __init__(self, limits: Limits | None = None, *, is_unsafe: bool = False, at_once: int | None = None) -> None:
        self._limits = Limits() if limits is None else limits
        self._at_once = max(1, len(os.sched_getaffinity(0)) if at_once is None else at_once)
        self.is_isolated = sys.platform == "linux"
        reason = f"no namespaces on {sys.platform}"
        if self.is_isolated:
            found = self.run("pass")
            self.is_isolated = found.result == "passed"
            reason = found.output.strip() or found.result
        if not self.is_isolated and not is_unsafe:
            raise BackendError(
                f"sandbox: expected a system that isolates programs, found one that does not ({reason}); run it on "
                "Linux with user namespaces, or say --unsafe and let the model's programs do what they want"
            )

    def run_all(self, programs: Sequence[str], on_done: Callable[[int], None] | None = None) -> list[Outcome]:
        """The outcome of each program. on_done: called with how many are done."""
        with ThreadPoolExecutor(self._at_once) as pool:
            found = []
            for outcome in pool.map(self.run, programs):
                found.append(outcome)
                if on_done is not None:
                    on_done(len(found))
        return found

    def run(self, source: str) -> Outcome:
        """Run one Python program. Printing, reading its own file and ending early do not make it pass."""
        limits, nonce = self._limits, secrets.token_hex(16)
        whole = f"{source}\n\nprint('\\n' + '{nonce}', flush=True)\n"
        with tempfile.TemporaryDirectory(prefix="octuor-run-") as folder, tempfile.TemporaryFile() as output:
            Path(folder, PROGRAM).write_text(whole, encoding="utf-8", errors="surrogateescape")
            mode = "isolated" if self.is_isolated else "bare"
            numbers = (int(limits.seconds) + 1, limits.memory_bytes, limits.file_bytes, limits.processes)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), mode, folder, *map(str, numbers), PROGRAM],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={}, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(limits.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None or not self.is_isolated:
                    _kill(process)
            printed = _tail(output.fileno())
        text, is_whole, _ = printed.rpartition(nonce)
        if code is None:
            return Outcome("took too long", printed[-SHOWN:])
        if code == NOT_ISOLATED:
            return Outcome("not run", printed[-SHOWN:])
        if code == 0 and is_whole:
            return Outcome("passed", text.rstrip("\n")[-SHOWN:])
        return Outcome("ended early" if code == 0 else f"failed ({code})", printed[-SHOWN:])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and all of its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(fd: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, 1 << 16, max(0, size - (1 << 16))).decode("utf-8", "replace")
