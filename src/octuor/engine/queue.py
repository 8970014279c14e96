"""Who waits, and who is next: tenants take turns by the tokens they have had.

The virtual token counter of Sheng et al. 2024, Fairness in Serving Large Language Models, arXiv:2401.00588: the tenant
that has been served least goes first, and one that comes back after a pause has no credit from it.
"""

from __future__ import annotations

from collections import Counter, deque

from octuor.engine.sequence import Sequence


class FairQueue:
    """Waiting sequences, first come first served for each tenant."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Sequence]] = {}
        self._served: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(self, sequence: Sequence) -> None:
        """Add one at the end of its tenant's line."""
        self._line(sequence.tenant).append(sequence)

    def push_front(self, sequence: Sequence) -> None:
        """Put one back that had its turn already."""
        self._line(sequence.tenant).appendleft(sequence)

    def peek(self) -> Sequence | None:
        """The next one, which stays; None where nobody waits."""
        if not self._waiting:
            return None
        return self._waiting[min(self._waiting, key=lambda tenant: self._served[tenant])][0]

    def remove(self, sequence: Sequence) -> bool:
        """Take one out, wherever it stands; whether it was there."""
        line = self._waiting.get(sequence.tenant)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        if not line:
            del self._waiting[sequence.tenant]
        return True

    def charge(self, tenant: str, n_tokens: int) -> None:
        """Account for tokens computed for a tenant."""
        self._served[tenant] += n_tokens

    def forget_idle(self, running: set[str]) -> None:
        """Drop the counters of tenants that neither wait nor run; a newcomer starts beside the least served."""
        for tenant in [name for name in self._served if name not in self._waiting and name not in running]:
            del self._served[tenant]

    def _line(self, tenant: str) -> deque[Sequence]:
        if tenant not in self._served:
            self._served[tenant] = min(self._served.values(), default=0)
        return self._waiting.setdefault(tenant, deque())
