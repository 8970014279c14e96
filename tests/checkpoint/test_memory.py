"""Page-in reads everything and says so; copies in memory of our own are the file, bit for bit."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint import memory
from octuor.checkpoint.files import MappedFile
from octuor.checkpoint.memory import PageIn, missing_bytes, populate, read_resident
from octuor.errors import CheckpointError

MIB = 1 << 20
SIZE = 5 * MIB + 123  # several chunks, the last neither whole nor aligned
TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHUNK", 2 * MIB)
    monkeypatch.setattr(memory, "SMALL", 0)


@pytest.fixture
def data() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path, data: NDArray[np.uint8]) -> Path:
    (tmp_path / "x").write_bytes(data.tobytes())
    return tmp_path / "x"


def forget(path: Path) -> None:
    """Ask the system to drop a file from the page cache; it may not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("is_cached", [True, False])
def test_page_in_leaves_nothing_missing(path: Path, data: NDArray[np.uint8], is_cached: bool) -> None:
    if not is_cached:
        forget(path)
    files = [MappedFile(path), MappedFile(path)]
    missing = sum(missing_bytes(chunk) for file in files for chunk in memory._chunks(file.bytes))
    seen: list[tuple[int, int]] = []
    assert PageIn(files, lambda done, total: seen.append((done, total))).wait(TIMEOUT_S)
    assert missing_bytes(files[0].bytes) == 0
    assert [total for _, total in seen] == [missing] * len(seen)
    assert bool(seen) == bool(missing)
    if seen:
        assert seen == sorted(seen)
        assert seen[-1] == (missing, missing)
    np.testing.assert_array_equal(files[1].bytes, data)


def test_page_in_without_the_kernels_help(path: Path, data: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no C library to ask, pages are touched."""
    monkeypatch.setattr(memory, "libc", lambda: None)
    file = MappedFile(path)
    assert missing_bytes(file.bytes) == 0
    assert PageIn([file]).wait(TIMEOUT_S)
    np.testing.assert_array_equal(file.bytes, data)


def test_small_files_and_files_beyond_memory_are_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        pytest.fail("nothing is to be read")

    monkeypatch.setattr(memory, "populate", refuse)
    monkeypatch.setattr(memory, "SMALL", SIZE + 1)
    assert PageIn([MappedFile(path)]).wait(0)
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "available_bytes", lambda: SIZE - 1)
    assert PageIn([MappedFile(path)]).wait(0)
    assert PageIn([]).wait(TIMEOUT_S)


def test_a_disk_that_fails_is_an_error_of_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advise = memory.advise

    def failing(array: NDArray[np.uint8], advice: int) -> int:
        return errno.EFAULT if advice == memory.MADV_POPULATE_READ else advise(array, advice)

    monkeypatch.setattr(memory, "advise", failing)
    page_in = PageIn([MappedFile(path)])
    with pytest.raises(CheckpointError, match="cannot be read into memory"):
        page_in.wait(TIMEOUT_S)


def test_stopping_ends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_ins: list[PageIn] = []
    is_known = threading.Event()
    read: list[int] = []

    def sample(_: object) -> int:
        is_known.wait(TIMEOUT_S)  # reading begins when the test has the object to stop
        return 0

    def populate_once(array: NDArray[np.uint8]) -> None:
        read.append(array.size)
        page_ins[0].stop()

    monkeypatch.setattr(memory, "READERS", 1)
    monkeypatch.setattr(memory, "populate", populate_once)
    monkeypatch.setattr(memory, "missing_bytes", sample)
    page_ins.append(PageIn([MappedFile(path)]))
    is_known.set()
    assert page_ins[0].wait(TIMEOUT_S)
    assert read == [2 * MIB]


def test_an_empty_view_has_nothing_to_read(path: Path) -> None:
    nothing = MappedFile(path).bytes[:0]
    populate(nothing)
    assert missing_bytes(nothing) == 0


# Copies


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("size", [1, 4096, 4 * MIB, SIZE])
def test_a_copy_is_the_file(tmp_path: Path, data: NDArray[np.uint8], size: int, is_cached: bool) -> None:
    (tmp_path / "y").write_bytes(data[:size].tobytes())
    if not is_cached:
        forget(tmp_path / "y")
    file = MappedFile(tmp_path / "y")
    seen: list[tuple[int, int]] = []
    read_resident([file], lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(file.bytes, data[:size])
    assert seen[-1] == (size, size)
    assert not file.bytes.flags.writeable
    assert file.bytes.ctypes.data % memory.HUGE_PAGE == 0


def test_what_is_read_past_the_page_cache_is_the_file(
    path: Path, data: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without direct reads they are plain ones: that has to work just as well."""
    monkeypatch.setattr(memory, "missing_bytes", lambda array: array.size)
    file = MappedFile(path)
    read_resident([file])
    np.testing.assert_array_equal(file.bytes, data)


def test_no_room_is_said_before_reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: SIZE - 1)
    file = MappedFile(path)
    mapped = file.bytes
    with pytest.raises(CheckpointError, match=r"expected 0\.0 GB of free memory .* load it without resident"):
        read_resident([file])
    assert file.bytes is mapped


def test_a_file_that_is_gone_or_has_become_shorter(path: Path) -> None:
    file = MappedFile(path)
    with path.open("r+b") as torn:
        torn.truncate(MIB)
    with pytest.raises(CheckpointError, match="it has become shorter"):
        read_resident([file])
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_resident([file])
