"""Bringing a checkpoint's bytes to where they are fast: page-in of mapped files, or a copy in memory of our own.

A mapping fills itself as it is touched, one small read after the other, and its 4 KiB pages cost the kernels 5 to 8 %:
the processor looks up more addresses, and its prefetchers stop at every page's end. PageIn asks for all of a mapping,
in the file's order and several reads at a time, in huge pages (2 MiB) where kernel and file system have them in the
page cache (Linux with XFS or Btrfs, with ext4 from 6.16). Other processes share them, and they stay for the next start.

read_resident copies instead: nobody reclaims such memory, and its pages are huge on any file system.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.files import MappedFile
from octuor.errors import CheckpointError
from octuor.machine import available_bytes

Bytes = NDArray[np.uint8]
OnLoad = Callable[[int, int], None]  # bytes done, and in all

CHUNK = 32 << 20  # a unit of work: large beside a read, small beside a progress bar
READERS = 8  # threads, asleep in the kernel most of the time: a depth of requests at which disks reach their rate
SMALL = 128 << 20  # below this, the system's own read-ahead is as quick as threads are
HUGE_PAGE = 2 << 20
BLOCK = 4096  # what direct reads are aligned to on any disk
MADV_HUGEPAGE, MADV_POPULATE_READ = 14, 22  # Linux; the second from 5.14 on, and not in Python's mmap


class PageIn:
    """Reads mapped files into memory in the background, each from its front, where what every token needs lies.

    A forward pass may run meanwhile: what it touches is read first. Nothing is done where the files are small, or
    do not fit in memory: reading ahead would then push out what is in use.

    on_load  called with bytes read and in all, from threads of this class; what memory held already does not count
    """

    def __init__(self, files: Sequence[MappedFile], on_load: OnLoad | None = None) -> None:
        self._on_load = on_load
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._is_stopped = False
        self._error: CheckpointError | None = None
        self._done = self._total = 0
        n_bytes = sum(file.bytes.size for file in files)
        if n_bytes >= SMALL:
            for file in files:
                advise(file.bytes, MADV_HUGEPAGE)  # refused where there are none: then pages are small
        if not SMALL <= n_bytes <= available_bytes():
            self._finished.set()
            return
        chunks = [chunk for file in files for chunk in _chunks(file.bytes)]
        threading.Thread(target=self._run, args=(chunks,), daemon=True).start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all is read or given up; False: it still goes on. Raises CheckpointError if reading failed."""
        is_over = self._finished.wait(timeout_s)
        if self._error is not None:
            raise self._error
        return is_over

    def stop(self) -> None:
        """Begin no further reads."""
        self._is_stopped = True

    def _run(self, chunks: list[Bytes]) -> None:
        missing = [missing_bytes(chunk) for chunk in chunks]
        self._total = sum(missing)
        work = iter(list(zip(chunks, missing, strict=True)))
        readers = [threading.Thread(target=self._read, args=(work,), daemon=True) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        self._finished.set()

    def _read(self, work: Any) -> None:
        while not self._is_stopped:
            with self._lock:
                chunk, n_missing = next(work, (None, 0))
            if chunk is None:
                return
            try:
                populate(chunk)
            except CheckpointError as error:
                self._error = error
                return
            with self._lock:
                self._done += n_missing
                if n_missing and self._on_load is not None:
                    self._on_load(self._done, self._total)


def read_resident(files: Sequence[MappedFile], on_load: OnLoad | None = None) -> None:
    """Replace the mappings of files by copies in memory of our own, in huge pages where the system has them.

    What the page cache holds is copied from there; the rest is read past it, so that it does not take memory twice.
    Raises CheckpointError, before anything is read, if memory has no room, or if a file cannot be read.
    """
    from concurrent.futures import ThreadPoolExecutor

    total, room = sum(file.bytes.size for file in files), available_bytes()
    if total > room:
        raise CheckpointError(
            f"{files[0].path}: expected {total / 1e9:.1f} GB of free memory to hold the weights in, found "
            f"{room / 1e9:.1f} GB; load it without resident, or convert it to a smaller format"
        )
    done = 0
    for file in files:
        copy = huge_memory(file.bytes.size)
        with ThreadPoolExecutor(READERS) as pool, _Source(file) as source:
            starts = range(0, copy.size, CHUNK)
            reads = [pool.submit(source.read, copy[at : at + CHUNK], at) for at in starts]
            try:
                for read in reads:
                    done += read.result()
                    if on_load is not None:
                        on_load(done, total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        copy.flags.writeable = False
        file.bytes = copy


def huge_memory(n_bytes: int) -> Bytes:
    """Zeroed private memory that begins on a huge page's edge, in huge pages where the system has them.

    Raises CheckpointError where the system gives none; what it gives is taken as it is written.
    """
    try:
        memory = mmap.mmap(-1, n_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise CheckpointError(
            f"weights: expected {n_bytes} bytes of memory, the system gives none ({error.strerror}); "
            "use fewer or smaller ones"
        ) from error
    array = np.frombuffer(memory, dtype=np.uint8)
    edge = -array.ctypes.data % HUGE_PAGE
    array = array[edge : edge + n_bytes]
    advise(array, MADV_HUGEPAGE)
    return array


class _Source:
    """A file to copy from: through the page cache where that holds it, else past it."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._direct: int | None = None

    def __enter__(self) -> _Source:
        try:
            self._cached = os.open(self._file.path, os.O_RDONLY)
        except OSError as error:
            raise self._failed(error.strerror or "") from error
        try:
            self._direct = os.open(self._file.path, os.O_RDONLY | os.O_DIRECT)
        except (AttributeError, OSError):
            self._direct = None  # this system or file system has no direct reads
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._cached)
        if self._direct is not None:
            os.close(self._direct)

    def read(self, out: Bytes, at: int) -> int:
        """Fill `out` from byte `at` of the file; returns its bytes."""
        is_cached = 2 * missing_bytes(self._file.bytes[at : at + out.size]) < out.size
        direct = None if is_cached or out.size % BLOCK else self._direct
        done = 0
        while done < out.size:
            # a direct read that stops short of a block's end is finished through the cache
            source = direct if direct is not None and done % BLOCK == 0 else self._cached
            try:
                n = os.preadv(source, [out[done:].data], at + done)
            except OSError as error:
                raise self._failed(error.strerror or "") from error
            if n == 0:
                raise self._failed("it has become shorter")
            done += n
        return done

    def _failed(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path}: cannot be read ({reason})")


def missing_bytes(array: Bytes) -> int:
    """Bytes of a view of a mapped file that the page cache does not hold, by a sample: one page in each 2 MiB.

    0 where the system does not tell: Linux tells only those who own the file or may write to it.
    """
    c = libc()
    start, n_bytes = _pages(array)
    if c is None:
        return 0
    found, n_missing = ctypes.c_ubyte(), 0
    pages = range(start, start + n_bytes, HUGE_PAGE)
    for page in pages:
        if c.mincore(page, mmap.PAGESIZE, ctypes.byref(found)) == 0:
            n_missing += ~found.value & 1
    return array.size * n_missing // max(len(pages), 1)


def populate(array: Bytes) -> None:
    """Read a view of a mapped file into memory, and into this process's page tables, without holding the GIL.

    Raises CheckpointError where the disk fails or the file has become shorter.
    """
    code = advise(array, MADV_POPULATE_READ)
    if code == errno.EINVAL:  # an older kernel, or another system: touch every page
        array[:: mmap.PAGESIZE].max(initial=0)
    elif code:
        raise CheckpointError(f"weights: cannot be read into memory ({os.strerror(code)}); is the disk sound?")


def advise(array: Bytes, advice: int) -> int:
    """madvise over the pages of an array; returns 0 or an errno, EINVAL where there is no such advice."""
    c = libc()
    start, n_bytes = _pages(array)
    if c is None:
        return errno.EINVAL
    return ctypes.get_errno() if n_bytes and c.madvise(start, n_bytes, advice) else 0


def _pages(array: Bytes) -> tuple[int, int]:
    """Address and bytes of the whole pages that hold an array."""
    start = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    end = -(-(array.ctypes.data + array.size) // mmap.PAGESIZE) * mmap.PAGESIZE
    return start, end - start if array.size else 0


def _chunks(array: Bytes) -> list[Bytes]:
    return [array[at : at + CHUNK] for at in range(0, array.size, CHUNK)]


@lru_cache(maxsize=1)
def libc() -> Any:
    """The C library, on Linux; its calls let other Python threads run, which Python's own madvise does not."""
    if sys.platform != "linux":
        return None
    c = ctypes.CDLL(None, use_errno=True)
    c.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    c.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    c.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    c.mremap.restype = ctypes.c_void_p
    return c
