"""A control group that limits a child's memory, page cache included; Linux, where groups are writable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A group with a limit in bytes; children join it themselves, between fork and exec."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self._is_v1 = (path / "memory.limit_in_bytes").exists()
        name = "memory.limit_in_bytes" if self._is_v1 else "memory.max"
        (path / name).write_text(str(limit))

    def join(self) -> None:
        """Move the calling process into the group; for `preexec_fn`."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self) -> int:
        """The most bytes it has had, page cache included."""
        return int((self.path / ("memory.max_usage_in_bytes" if self._is_v1 else "memory.peak")).read_text())


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A group of that limit, gone afterwards; its processes must have ended by then.

    Raises OSError where groups cannot be made here.
    """
    top = TOP / "memory" if (TOP / "memory").is_dir() else TOP
    path = top / f"octuor-{os.getpid()}"
    path.mkdir()
    try:
        yield MemoryGroup(path, limit)
    finally:
        path.rmdir()
