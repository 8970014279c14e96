"""Files as checkpoints need them: mapped for reading, and written whole or not at all."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from octuor.errors import CheckpointError

BLOCK = 8 << 20  # written at once
SQUARE = 64  # rows and columns
_LFS_POINTER = b"version https://git-lfs"


def map_file(path: Path) -> NDArray[np.uint8]:
    """A file's bytes as a read-only array [size] over a mapping; it is unmapped with the last view of it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CheckpointError(f"{path}: expected a checkpoint file, found an empty one; download it again")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise CheckpointError(
                f"{path}: expected address space for its {path.stat().st_size} bytes, the system gives none "
                f"({error.strerror}); raise `ulimit -v`"
            ) from error
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


class MappedFile:
    """A file that is read by looking at its bytes.

    bytes  read-only array [size]: a mapping, until memory.read_resident puts a copy in its place
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = map_file(path)

    def refuse_pointer(self) -> None:
        """Raise CheckpointError if Git left a pointer where the file should be."""
        if self.bytes[: len(_LFS_POINTER)].tobytes() == _LFS_POINTER:
            raise CheckpointError(f"{self.path}: expected weights, found a Git LFS pointer; run `git lfs pull` there")


def drop_pages(array: NDArray[Any]) -> None:
    """Tell the system that a view of a mapped file is done with, so that its pages stop counting as ours.

    The view stays valid: touched again, it is read again. Does nothing to an array that is not mapped.
    """
    whole: Any = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    owner = whole.base.obj if isinstance(whole.base, memoryview) else whole.base
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    # Columns of a matrix lie among others, and the pages of all of them go.
    extent = array.itemsize + sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
    start = array.ctypes.data - whole.ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, first, start + extent - first)


@contextmanager
def replacing(path: Path, n_bytes: int, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A new file that gets its name when the block ends well, and leaves nothing behind when it does not.

    n_bytes  bytes that will be written; the disk must have them before anything is

    The bytes go to `<name>.partial` beside it, are synced, and renamed. A process that is killed outright
    leaves that file, and the next one with the same output starts it afresh.
    Raises CheckpointError if the file exists and overwrite is False, or if it cannot be written.
    """
    check_new(path, overwrite=overwrite)
    partial = partial_path(path)
    try:
        partial.unlink(missing_ok=True)
        _check_room(path, n_bytes)
        with partial.open("xb") as file:
            ours = os.fstat(file.fileno())
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                if _is_same(partial, ours):
                    partial.unlink()
                raise
        if not _is_same(partial, ours):
            raise CheckpointError(f"{path}: another process began to write it; let one finish, then try again")
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); nothing was kept") from error


def in_row_order(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its numbers one after the other: itself, or a copy.

    A transposed matrix is copied in squares that stay in a core's cache, 2.6 times as fast as NumPy does it.
    """
    if array.flags.c_contiguous or array.ndim != 2 or array.strides[0] >= array.strides[1]:
        return np.ascontiguousarray(array)
    out = np.empty(array.shape, array.dtype)
    for row in range(0, array.shape[0], SQUARE):
        for column in range(0, array.shape[1], SQUARE):
            at = (slice(row, row + SQUARE), slice(column, column + SQUARE))
            out[at] = array[at]
    return out


class Blocks:
    """Writes a file in aligned blocks of some huge pages, so that the page cache holds it in huge pages (Linux with
    large folios: 2 MiB writes at 2 MiB edges make them, smaller or odd ones do not). What is left goes at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block = bytearray(BLOCK)
        self._n_held = 0

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._file.write(memoryview(self._block)[: self._n_held])

    def write(self, data: bytes | memoryview) -> None:
        """Take all of data; it is not looked at again."""
        rest = memoryview(data)
        while len(rest):
            n = min(len(rest), BLOCK - self._n_held)
            self._block[self._n_held : self._n_held + n] = rest[:n]
            self._n_held += n
            rest = rest[n:]
            if self._n_held == BLOCK:
                self._file.write(self._block)
                self._n_held = 0

    def write_array(self, array: NDArray[Any]) -> None:
        """Take an array's bytes in row order, without a copy of all of it where it is contiguous."""
        self.write(bytes_of(array))


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in row order, without a copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@contextmanager
def replacing_folder(path: Path, n_bytes: int, stale: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """A new folder to write files in, which gets its name when the block ends well, and is gone when it does not.

    n_bytes  bytes that will be written; the disk must have them before anything is
    stale    patterns of names that mark a folder as holding what is about to be written, the surest mark first

    The files go to `<name>.partial` beside it. Where the folder is there, without such names or with overwrite, they
    are moved into it, the surest mark last, after files of such names are taken out; others stay.
    Raises CheckpointError if the folder holds such names and overwrite is False, or if it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: expected a new folder, found a file of that name; choose another name")
    if not overwrite and _named(path, stale):
        raise CheckpointError(
            f"{path}: expected a new folder, found a checkpoint; choose another, or ask to overwrite it"
        )
    path = path.absolute()
    partial = path.with_name(path.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _check_room(path, n_bytes)
            yield partial
            made = sorted(partial.iterdir(), key=lambda file: file.match(stale[0]))
            if path.exists():
                for old in _named(path, stale):
                    old.unlink()
                for file in made:
                    file.replace(path / file.name)
                partial.rmdir()
            else:
                partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); nothing was kept") from error


def _named(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))] if folder.is_dir() else []


class PartialFile:
    """A file of known length that is written in parts, each at its place, and that a later process can go on with.

    The bytes are in `<name>.partial` beside it until `finish`. The disk's room is taken at once, where the file system
    can, and what was not written is zeros. Raises CheckpointError as `replacing` does.

    resume   go on with a partial file of this length, if there is one
    resumed  whether there was
    """

    def __init__(self, path: Path, n_bytes: int, *, overwrite: bool, resume: bool) -> None:
        check_new(path, overwrite=overwrite)
        self.path, self.partial = path, partial_path(path)
        self.resumed = resume and self.partial.is_file() and self.partial.stat().st_size == n_bytes
        with self._telling():
            if not self.resumed:
                self.partial.unlink(missing_ok=True)
                _check_room(path, n_bytes)
            self._file = self.partial.open("r+b" if self.resumed else "x+b", buffering=0)
            if not self.resumed:
                self._file.truncate(n_bytes)
                if hasattr(os, "posix_fallocate") and n_bytes:
                    os.posix_fallocate(self._file.fileno(), 0, n_bytes)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: memoryview, at: int) -> None:
        """Write bytes from byte `at` on."""
        with self._telling():
            self._file.seek(at)
            while len(data):
                data = data[self._file.write(data) :]

    def sync(self) -> None:
        """Bring what was written to the disk, and let the page cache go of it."""
        with self._telling():
            os.fsync(self._file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def finish(self) -> None:
        """Sync it and give it its name."""
        self.sync()
        self._file.close()
        with self._telling():
            self.partial.replace(self.path)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written ({error.strerror})") from error


def partial_path(path: Path) -> Path:
    """Where a file's bytes are until it is whole."""
    return path.with_name(path.name + ".partial")


def check_new(path: Path, *, overwrite: bool) -> None:
    """Raise CheckpointError if there is a folder of that name, or a file that is not to be overwritten."""
    if path.is_dir() or (path.exists() and not overwrite):
        hint = "name a file in it" if path.is_dir() else "choose another name, or ask to overwrite it"
        raise CheckpointError(f"{path}: expected a new file, found a {_kind(path)}; {hint}")


def _check_room(path: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        raise CheckpointError(
            f"{path}: expected {n_bytes} bytes free on its disk, found {free}; "
            f"free {n_bytes - free} bytes or write to another disk"
        )


def _is_same(path: Path, opened: os.stat_result) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file of that name"
