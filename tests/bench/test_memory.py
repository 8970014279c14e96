"""Memory for benchmarks: asked for before it is taken, cut into pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from octuor.bench import memory
from octuor.bench.memory import PAGE, Arena, require_memory, room
from octuor.errors import BackendError


def test_too_much_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000_000)
    require_memory(100_000_000, "never said")
    with pytest.raises(BackendError, match=r"expected 0.2 GB free, found 0.1 GB; use less"):
        require_memory(200_000_000, "use less")


def test_arrays_of_an_arena_lie_on_pages_of_their_own() -> None:
    sizes = [1, PAGE, PAGE + 1, 3]
    arena = Arena(sum(map(room, sizes)))
    arrays = [arena.take(size) for size in sizes]
    assert [len(array) for array in arrays] == sizes
    assert all(array.ctypes.data % PAGE == 0 for array in arrays)
    for i, array in enumerate(arrays):
        array[:] = i + 1
    assert [set(array.tolist()) for array in arrays] == [{1}, {2}, {3}, {4}]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's list of mappings")
def test_an_arena_is_the_process_own() -> None:
    """Shared memory would count as a file, and have no huge pages."""
    array = Arena(PAGE).take(PAGE)
    array[:] = 1
    at = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(word, 16) for word in line.split()[0].split("-"))
        if begin <= at < end:
            assert line.split()[1] == "rw-p"
            assert line.split()[4] == "0"  # no file
            return
    pytest.fail("the array is in no mapping")
