"""Progress bars with rates for work that takes more than a moment; on stderr, and only in a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LONG_S = 2.0  # waits shorter than this need no bar


@contextmanager
def bytes_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for bytes done of bytes in all, with MB/s and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    title_column = TextColumn("{task.description}")
    columns = (title_column, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


@contextmanager
def tokens_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for tokens done of tokens in all, with tokens/s and time left; gone when the work is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    title_column, rate_column = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
    columns = (title_column, BarColumn(), MofNCompleteColumn(), rate_column, TimeRemainingColumn())
    console = Console(stderr=True)
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None, rate="")

        def update(done: int, total: int) -> None:
            rate = f"{done / max(time.monotonic() - began, 1e-9):,.0f} tokens/s"
            progress.update(task, completed=done, total=total, rate=rate)

        yield update


@contextmanager
def steps_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for steps done of steps in all, with what is at work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def update(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield update


@contextmanager
def training_bar(total: int) -> Iterator[tuple[Callable[[str, int], None], Callable[[str], None]]]:
    """A bar on stderr for the steps of a run, with the time left; and a way to print lines above it.

    yields  update(what is at work, steps done), and print(a line)
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=300, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def update(what: str, done: int) -> None:
            progress.update(task, description=what, completed=done)

        def line(text: str) -> None:
            console.print(text, soft_wrap=True, markup=False, highlight=False)

        yield update, line


@contextmanager
def stages_bar(stages: Sequence[str]) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr for stages that follow one another, each with its share done and the time it has left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {stage: progress.add_task(stage, total=None, start=False) for stage in stages}

        def update(stage: str, done: int, total: int) -> None:
            task = tasks[stage]
            if not progress.tasks[task].started:
                progress.start_task(task)
            progress.update(task, completed=done, total=total)

        yield update


class PromptBar:
    """What there is to wait for before an answer: weights on their way from disk, a long prompt being read.

    Lines appear while that takes, inside `with` only, and are gone when the answer begins, after an error and after
    Ctrl-C. May be entered again, for the next answer. rich is imported only when there is something to show.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.RLock()  # weights are read, and reported, by threads of their own
        self._is_open = False
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> PromptBar:
        self._is_open = True
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, done: int, total: int) -> None:
        """Prompt tokens done, and in all."""
        self._show("reading", done, total, f"{done}/{total}")
        if done == total:
            self.close()

    def loading(self, done: int, total: int) -> None:
        """Bytes of weights read, and in all. Shown once it looks as if all of it will take over two seconds."""
        elapsed = time.monotonic() - self._began
        if done and (self._tasks or elapsed * total / done > LONG_S):
            rate = done / elapsed / 1e6
            self._show("loading", done, total, f"{done / 1e9:.1f}/{total / 1e9:.1f} GB, {rate:.0f} MB/s")

    def close(self) -> None:
        """Take all of it away, if it is there."""
        with self._lock:
            self._is_open = False
            if self._progress is not None:
                self._progress.stop()
                self._progress = None
                self._tasks.clear()

    def _show(self, what: str, done: int, total: int, amount: str) -> None:
        with self._lock:
            if not self._is_open or not sys.stderr.isatty():  # not waiting, or for nobody
                return
            if what not in self._tasks:
                if done == total:
                    return
                if self._progress is None:
                    self._progress = _lines()
                    self._progress.start()
                self._tasks[what] = self._progress.add_task(what, total=total, amount=amount)
            self._progress.update(self._tasks[what], completed=done, amount=amount)


def _lines() -> Any:
    """Lines of a title, a bar, an amount and the time left; gone when they are stopped."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)
