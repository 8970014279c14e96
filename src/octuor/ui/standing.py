"""How the models of this process stand: the counts behind /metrics, where the experts are, what memory is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from octuor.api import Model
from octuor.cache import PAGE_SIZE
from octuor.engine.engine import EngineStats
from octuor.machine import available_bytes, resident_bytes
from octuor.server.registry import Served
from octuor.server.serving import Serving
from octuor.ui.backend import ModelStatus, Status

WINDOW_S = 5.0  # over which the speed is told
LEAST_S = 0.5  # between two looks at a count that a speed is made of


class Standing:
    """Looked at by as many pages as there are; the speed comes from their looks together."""

    def __init__(self, serving: Serving, clock: Callable[[], float] = time.monotonic) -> None:
        self._serving = serving
        self._speeds: dict[tuple[str, str], Speed] = {}
        self._clock = clock
        self._expert_bytes: dict[str, int] = {}

    def now(self) -> Status:
        """The present state. Raises ApiError 503 while models load."""
        models = self._serving.models().models
        stats = self._serving.engine_stats()
        taken = resident_bytes()
        limits = [one.model.budget.limit for one in models if one.model.budget is not None]
        limit = min(limits, default=None)
        left = available_bytes()
        if limit is not None:
            left = max(0, min(left, limit - taken))
        return Status(tuple(self._model(one, stats[one.name]) for one in models), taken, limit, left)

    def _model(self, served: Served, stats: EngineStats) -> ModelStatus:
        config, store = served.model.config, served.model.store
        if served.name not in self._expert_bytes:
            self._expert_bytes[served.name] = _expert_bytes(served.model)
        stored_bytes = self._expert_bytes[served.name]
        if store is None:  # mapped or copied, and all there as far as this process decides
            resident = np.ones((config.n_layers, config.n_experts), np.bool_)
            all_bytes = held_bytes = stored_bytes
        else:
            resident, sizes = store.residency()
            all_bytes, held_bytes = int(sizes.sum()), int(sizes[resident].sum())
        return ModelStatus(
            name=served.name,
            resident=resident,
            expert_bytes=all_bytes,
            held_bytes=held_bytes,
            other_bytes=served.model.checkpoint.n_bytes - stored_bytes,
            cache_pages=stats.pages,
            pages_used=stats.pages_used,
            pages_known=stats.pages_known,
            page_tokens=PAGE_SIZE,
            page_bytes=stats.page_bytes,
            tokens_per_s=self._speed(served, "answers").look(stats.completion_tokens),
            prompt_tokens_per_s=self._speed(served, "prompts").look(stats.prompt_tokens),
            running=stats.running,
            waiting=stats.waiting,
            store=stats.store,
        )

    def _speed(self, served: Served, of: str) -> Speed:
        return self._speeds.setdefault((served.name, of), Speed(self._clock))


class Speed:
    """How fast a count grows, by looking at it now and then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looks: deque[tuple[float, int]] = deque()

    def look(self, count: int) -> float | None:
        """Growth a second over the last WINDOW_S; None where nobody has looked lately."""
        now = self._clock()
        if not self._looks or now - self._looks[-1][0] >= LEAST_S:
            self._looks.append((now, count))
        while self._looks[0][0] < now - WINDOW_S:
            self._looks.popleft()
        since, before = self._looks[0]
        return (count - before) / (now - since) if now - since >= LEAST_S else None


def _expert_bytes(model: Model) -> int:
    checkpoint = model.checkpoint
    return sum(checkpoint.get(name).nbytes for name in checkpoint.names if ".experts." in name)
