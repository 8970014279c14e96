"""A folder's disk: the room on it, and how fast it is read past the page cache."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from octuor.errors import RequestError

CHUNK = 8 << 20
DEPTH = 8  # reads in flight
SAMPLE = 512 << 20


@dataclass(frozen=True)
class DiskSpeed:
    """free_bytes: room for new files; read_gb_per_s: direct reads, several in flight; None where there are none."""

    free_bytes: int
    read_gb_per_s: float | None


def measure_disk(folder: Path) -> DiskSpeed:
    """Read at most half a gigabyte of the largest file in the folder, or of one made for it, past the page cache.

    Raises RequestError if there is no such folder.
    """
    if not folder.is_dir():
        raise RequestError(f"--disk: expected a folder, found none at {folder}; name one on the disk you mean")
    free = shutil.disk_usage(folder).free
    files = [file for file in folder.iterdir() if file.is_file() and os.access(file, os.R_OK)]
    largest = max(files, key=lambda file: file.stat().st_size, default=None)
    if largest is not None and largest.stat().st_size >= SAMPLE // 2:
        return DiskSpeed(free, _read(largest))
    if free < 4 * SAMPLE:
        return DiskSpeed(free, None)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".octuor-plan-") as made:
            for _ in range(SAMPLE // CHUNK):
                made.write(os.urandom(CHUNK))  # what no disk can make smaller
            made.flush()
            os.fsync(made.fileno())
            return DiskSpeed(free, _read(Path(made.name)))
    except OSError:
        return DiskSpeed(free, None)  # not ours to write to


def _read(path: Path) -> float | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except (AttributeError, OSError):
        return None  # this system or file system has no direct reads
    n_chunks = min(path.stat().st_size, SAMPLE) // CHUNK
    memory = [mmap.mmap(-1, CHUNK) for _ in range(DEPTH)]

    def read(first: int) -> int:
        return sum(os.preadv(file, [memory[first]], n * CHUNK) for n in range(first, n_chunks, DEPTH))

    try:
        began = time.perf_counter()
        with ThreadPoolExecutor(DEPTH) as pool:
            n_bytes = sum(pool.map(read, range(DEPTH)))
        return n_bytes / (time.perf_counter() - began) / 1e9
    except OSError:
        return None
    finally:
        os.close(file)
