"""Ranges keep their addresses; memory goes from one to another with what it holds."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.experts import arena
from octuor.experts.arena import LARGE, Arena


@pytest.mark.parametrize("size", [5000, LARGE + 1])
def test_memory_moves_with_its_contents(size: int) -> None:
    found = Arena([size, size, 3])
    room = found.room(size)
    assert room % found.page == 0
    assert 0 <= room - size < found.page
    assert found.begins == [0, room, 2 * room]
    assert found.bytes.ctypes.data % found.page == 0
    first, second = found.bytes[:room], found.bytes[room : 2 * room]
    first[:] = np.arange(room, dtype=np.uint8)
    expected = first.copy()
    assert found.move(0, room, room)
    assert np.array_equal(second, expected)
    assert not first.any()
    found.release(room, room)
    assert not second.any()


def test_a_system_that_cannot_move_says_so_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Arena([5000, 5000])
    found.bytes[:5000] = 7
    assert not found.move(0, found.begins[1], 0)
    monkeypatch.setattr(arena, "libc", lambda: None)
    assert not found.move(0, found.begins[1], found.room(5000))
    assert (found.bytes[:5000] == 7).all()
