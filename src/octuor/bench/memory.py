"""Memory for benchmarks: checked before it is taken, the process's own, on huge pages where the machine allows."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.errors import BackendError

HUGE_PAGE = 2 << 20
PAGE = 4096
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that may be taken without pushing anything out: of the machine and of the control group; None: unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    except FileNotFoundError:
        return None
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(int(limit) - _working_set())
    except FileNotFoundError:  # no control group, or the root of all
        pass
    return min(found, default=None)


def _working_set() -> int:
    """The control group's bytes without page cache that can be dropped."""
    used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    stat = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    return used - sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))


def require_memory(n_bytes: int, advice: str) -> None:
    """Raise BackendError, ending in the advice, if n_bytes are more than is free."""
    free = free_memory()
    if free is not None and n_bytes > free:
        raise BackendError(f"memory: expected {n_bytes / 1e9:.1f} GB free, found {free / 1e9:.1f} GB; {advice}")


class Arena:
    """One anonymous mapping from which arrays are cut, page by page; freed with the last of them."""

    def __init__(self, n_bytes: int) -> None:
        # private: Python's default is shared memory, which has no huge pages of its own
        mapping = mmap.mmap(-1, n_bytes + 2 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(mapping, dtype=np.uint8)
        start = -whole.ctypes.data % HUGE_PAGE
        self._bytes = whole[start : start + n_bytes]
        self._used = 0

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """The next n_bytes, beginning at a page of their own; room for them was asked for in `room`."""
        start, self._used = self._used, self._used + room(n_bytes)
        return self._bytes[start : start + n_bytes]


def room(n_bytes: int) -> int:
    """Bytes that n_bytes take in an Arena: whole pages."""
    return -(-n_bytes // PAGE) * PAGE
