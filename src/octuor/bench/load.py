"""How much of the CPUs other work took while a benchmark ran: with more than a few percent, rates are too low."""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4)  # columns of /proc/stat: idle, waiting for a disk; proc(5)
GUEST = 8  # and later: already counted as user


class ForeignLoad:
    """Measures from its making until it is asked."""

    def __init__(self) -> None:
        self._began = _times()

    def share(self) -> float | None:
        """Time that others ran, a hypervisor's too, over the time of all CPUs; None where it cannot be known."""
        now = _times()
        if self._began is None or now is None:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._began, strict=True))
        return max(busy - own, 0.0) / total if total > 0 else 0.0


def _times() -> tuple[float, float, float] | None:
    """Seconds of all CPUs since the start of the machine, those of them that were busy, and this process's own."""
    try:
        columns = [int(word) for word in STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]][:GUEST]
    except FileNotFoundError:
        return None
    hertz = os.sysconf("SC_CLK_TCK")
    own = os.times()
    total = sum(columns)
    return total / hertz, (total - sum(columns[i] for i in IDLE)) / hertz, own.user + own.system
