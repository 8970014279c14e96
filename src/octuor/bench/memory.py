"""Memory for random weights: checked before it is taken, and cut into arrays page by page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.memory import huge_memory
from octuor.errors import BackendError
from octuor.machine import available_bytes

PAGE = 4096


def require_memory(n_bytes: int, advice: str) -> None:
    """Raise BackendError, ending in the advice, if n_bytes are more than is free."""
    free = available_bytes()
    if n_bytes > free:
        raise BackendError(f"memory: expected {n_bytes / 1e9:.1f} GB free, found {free / 1e9:.1f} GB; {advice}")


class Arena:
    """Private memory, on huge pages where the system has them, from which arrays are cut; freed with the last."""

    def __init__(self, n_bytes: int) -> None:
        self._bytes = huge_memory(n_bytes)
        self._used = 0

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """The next n_bytes, beginning at a page of their own; room for them was asked for in `room`."""
        start, self._used = self._used, self._used + room(n_bytes)
        return self._bytes[start : start + n_bytes]


def room(n_bytes: int) -> int:
    """Bytes that n_bytes take in an Arena: whole pages."""
    return -(-n_bytes // PAGE) * PAGE
