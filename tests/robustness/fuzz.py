"""Send a route what hypothesis makes of its body, many times over."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings

from robustness.bodies import bodies
from robustness.pocket import PocketServer, check_answer


def fuzz(server: PocketServer, path: str, n_examples: int) -> Counter[int]:
    """How often each status came; the same bodies each time. AssertionError for a body that breaks the rules."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=n_examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(path))
    def send(body: bytes) -> None:
        answer = server.post(path, body)
        statuses[answer.status_code] += 1
        check_answer(path, answer)

    send()
    server.check_well()
    return statuses
