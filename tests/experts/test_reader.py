"""Whole files through chunks, urgent ones first; failures are said and the next job goes on."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.errors import CheckpointError
from octuor.experts import reader
from octuor.experts.layout import Segment
from octuor.experts.reader import Job, Reader

SIZE = 50_000  # not a multiple of a block
WITHIN_S = 20.0
Bytes = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", 8192)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8).tobytes())
    return tmp_path / "x"


def memory(n_bytes: int) -> Bytes:
    whole = np.zeros(n_bytes + 4096, dtype=np.uint8)
    return whole[-whole.ctypes.data % 4096 :][:n_bytes]


def read(files: Reader, segments: list[Segment], n_bytes: int) -> tuple[Job, Bytes]:
    done, into = threading.Event(), memory(n_bytes)
    job = Job(segments, into, lambda _: done.set())
    files.read(job, urgent=True)
    assert done.wait(WITHIN_S)
    return job, into


@pytest.mark.parametrize("has_direct", [True, False])
def test_segments_arrive_where_they_belong(path: Path, has_direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_direct:
        monkeypatch.setattr(os, "O_DIRECT", 0)
    files = Reader([path], threads=3)
    segments = [Segment(0, 4096, SIZE - 4096, 0), Segment(0, 0, 4096, 49152)]
    job, into = read(files, segments, 49152 + 4096)
    files.close()
    expected = np.frombuffer(path.read_bytes(), np.uint8)
    assert job.error is None
    assert job.n_read == SIZE
    assert np.array_equal(into[: SIZE - 4096], expected[4096:])
    assert np.array_equal(into[49152:], expected[:4096])


def test_a_file_that_ends_early_is_an_error_and_the_next_job_goes_on(path: Path) -> None:
    files = Reader([path], threads=2)
    os.truncate(path, 12_000)
    job, _ = read(files, [Segment(0, 0, SIZE, 0)], 53248)
    assert isinstance(job.error, CheckpointError)
    assert "expected 50000 bytes, it has become shorter" in str(job.error)
    job, _ = read(files, [Segment(0, 0, 8192, 0)], 8192)
    assert job.error is None
    files.close()


def test_urgent_jobs_go_first_and_others_may_become_urgent(path: Path) -> None:
    files = Reader([path], threads=0)
    jobs = [Job([Segment(0, 0, 4096, 0)], memory(4096), lambda _: None) for _ in range(4)]
    for job, urgent in zip(jobs, (False, False, True, False), strict=True):
        files.read(job, urgent=urgent)
    files.hurry(jobs[3])
    taken = [files._next() for _ in range(4)]
    files.close()
    assert [jobs.index(found[0]) for found in taken if found is not None] == [2, 3, 0, 1]
    assert files._next() is None


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone: cannot be read"):
        Reader([tmp_path / "gone"])


def test_one_of_its_own_threads_may_close_it(path: Path) -> None:
    """As a garbage collection there does; files stay open until the last thread has ended."""
    files, closed = Reader([path], threads=3), threading.Event()

    def close(_: Job) -> None:
        files.close()
        closed.set()

    files.read(Job([Segment(0, 0, 4096, 0)], memory(4096), close), urgent=True)
    assert closed.wait(WITHIN_S)
    for thread in files._threads:
        thread.join(WITHIN_S)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files._files[0]._cached)
