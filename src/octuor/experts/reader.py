"""Threads that read stretches of files past the page cache, several at a time, what is waited for first.

Direct reads take no memory but the one they fill, and keep the disk's queue as full as we want it. Where a file
system has none, a read goes through the page cache and is dropped from there.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from octuor.checkpoint.memory import BLOCK, Bytes
from octuor.errors import CheckpointError
from octuor.experts.layout import Segment

CHUNK = 4 << 20  # bytes of a read: disks reach their rate, and a stretch is shared by all threads
THREADS = 8  # reads at a time


class Job:
    """Segments on their way into memory.

    n_read  bytes of memory that have been filled
    error   why it failed; None: it has not
    """

    def __init__(self, segments: Sequence[Segment], memory: Bytes, on_done: Callable[[Job], None]) -> None:
        self.n_read = 0
        self.error: CheckpointError | None = None
        self._on_done = on_done
        self._chunks = deque(
            (segment.file, segment.begin + at, memory[segment.at + at :], min(CHUNK, segment.n_bytes - at))
            for segment in segments
            for at in range(0, segment.n_bytes, CHUNK)
        )
        self._n_open = len(self._chunks)

    def take(self) -> tuple[int, int, Bytes, int] | None:
        """The next chunk to read: file, first byte, memory, bytes."""
        return self._chunks.popleft() if self._chunks else None

    def finish(self, n_read: int, error: CheckpointError | None = None) -> bool:
        """Account for a chunk; True: it was the last one. A failure takes those with it that have not begun."""
        if error is not None:
            self.error = error
            self._n_open -= len(self._chunks)
            self._chunks.clear()
        self._n_open -= 1
        self.n_read += n_read
        return self._n_open == 0

    def tell(self) -> None:
        """Call who asked for it."""
        self._on_done(self)


class Reader:
    """Reads jobs in the order in which they were asked for, urgent ones before all others.

    `on_done` of a job is called from one of the threads, once. Threads end with `close`; jobs not begun are forgotten.
    """

    def __init__(self, paths: Sequence[Path], *, threads: int = THREADS) -> None:
        self._files = [_File(path) for path in paths]
        self._changed = threading.Condition()
        self._urgent: deque[Job] = deque()
        self._later: deque[Job] = deque()
        self._is_closed = False
        self._n_running = threads
        self._threads = [threading.Thread(target=self._run, name="octuor-reader", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def read(self, job: Job, *, urgent: bool) -> None:
        """Begin a job soon."""
        with self._changed:
            (self._urgent if urgent else self._later).append(job)
            self._changed.notify_all()

    def hurry(self, job: Job) -> None:
        """Somebody waits for a job that was not urgent."""
        with self._changed:
            if job in self._later:
                self._later.remove(job)
                self._urgent.append(job)

    def close(self) -> None:
        """Begin no further reads and end the threads; the last of them closes the files.

        Called from one of them, by a garbage collection there, it does not wait: the others may need what it holds.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()
        if not self._threads:
            self._close_files()

    def _close_files(self) -> None:
        for file in self._files:
            file.close()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            job, (file, begin, memory, n_bytes) = found
            error: CheckpointError | None = None
            try:
                self._files[file].read(memory, begin, n_bytes)
            except CheckpointError as failure:
                error = failure
            with self._changed:
                is_last = job.finish(0 if error else n_bytes, error)
            if is_last:
                job.tell()
            del job, memory, found, error  # an idle thread keeps nothing alive
        with self._changed:
            self._n_running -= 1
            is_last = self._n_running == 0
        if is_last:
            self._close_files()

    def _next(self) -> tuple[Job, tuple[int, int, Bytes, int]] | None:
        with self._changed:
            while not self._is_closed:
                for queue in (self._urgent, self._later):
                    while queue:
                        chunk = queue[0].take()
                        if chunk is not None:
                            return queue[0], chunk
                        queue.popleft()
                self._changed.wait()
            return None


class _File:
    """One file to read from, directly where its file system can."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._cached = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._failed(error.strerror or "") from error
        try:
            self._direct: int | None = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            self._direct = None
        self._size = os.fstat(self._cached).st_size

    def close(self) -> None:
        os.close(self._cached)
        if self._direct is not None:
            os.close(self._direct)

    def read(self, memory: Bytes, begin: int, n_bytes: int) -> None:
        """Fill memory from byte `begin` on, a multiple of BLOCK; memory has room for whole blocks."""
        done = 0
        while done < n_bytes:
            direct = self._direct if done % BLOCK == 0 else None
            end = n_bytes if direct is None else -(-n_bytes // BLOCK) * BLOCK
            source = self._cached if direct is None else direct
            try:
                n = os.preadv(source, [memory[done:end].data], begin + done)
            except OSError as error:
                if direct is not None and error.errno == errno.EINVAL:
                    self._direct = None  # the file system takes the flag, but no such reads
                    continue
                raise self._failed(error.strerror or "") from error
            if n == 0:
                raise self._failed(f"expected {self._size} bytes, it has become shorter")
            if direct is None:
                os.posix_fadvise(self._cached, begin + done, n, os.POSIX_FADV_DONTNEED)
            done += n

    def _failed(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: cannot be read ({reason}); is the disk sound, and the file still there?")
