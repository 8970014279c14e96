"""Progress bars with rates for work that takes more than a moment; on stderr, and only in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


class PromptBar:
    """A bar that appears while a long prompt is read and is gone when the answer begins.

    Call it with prompt tokens done and in all, inside `with`: an error or Ctrl-C takes it away too. rich is
    imported only when there is something to show.
    """

    def __init__(self) -> None:
        self._progress: Any = None

    def __enter__(self) -> PromptBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            if done == total or not sys.stderr.isatty():  # read in one go, or for nobody
                return
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done)
        if done == total:
            self.close()

    def close(self) -> None:
        """Take the bar away, if it is there."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
