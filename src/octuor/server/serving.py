"""What all routes share: models, accounts, settings, and who wants to hear of finished requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request

from octuor.accounts import Accounts, Admission, Key
from octuor.engine.engine import EngineStats
from octuor.server.errors import ApiError
from octuor.server.logs import log_request
from octuor.server.metrics import Metrics
from octuor.server.record import RequestRecord
from octuor.server.registry import Registry, Served
from octuor.server.settings import ServerSettings


@dataclass
class Serving:
    """The server's state; one an application, at `app.state.serving`.

    registry     the loaded models; None while they load
    accounts     keys and usage; None: nobody needs a key, nothing is written down
    settings     as configured
    is_draining  the server is about to stop and takes nothing new
    in_progress  HTTP requests that are not over
    metrics      what /metrics shows
    listeners    called with the record of each request that is over, in this order
    """

    registry: Registry | None = None
    accounts: Accounts | None = None
    settings: ServerSettings = field(default_factory=ServerSettings)
    is_draining: bool = False
    in_progress: int = 0
    metrics: Metrics = field(init=False)
    listeners: list[Callable[[RequestRecord], None]] = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine_stats)
        self.listeners = [self.metrics.observe, log_request]

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.registry is not None and not self.is_draining

    def models(self) -> Registry:
        """The loaded models. Raises ApiError 503 while they load."""
        if self.registry is None:
            raise ApiError(503, "The model is still loading; try again", code="loading", headers={"retry-after": "5"})
        return self.registry

    def find(self, name: str | None) -> Served:
        """The model of that name; None: the default one. Raises ApiError 404 and 503."""
        registry = self.models()
        return registry.default if name is None else registry.find(name)

    def admit(self, key: Key, served: Served, prompt_tokens: int) -> Admission | None:
        """Leave for one request by the key's limits; None where nobody keeps accounts. Raises AccountError."""
        if self.accounts is None:
            return None
        return self.accounts.admit(key, served.name, prompt_tokens, names=self.models().aliases(served))

    def engine_stats(self) -> dict[str, EngineStats]:
        """The engines' counts as they are now, by the models' own names."""
        return {} if self.registry is None else {found.name: found.engine.stats() for found in self.registry.models}

    def finished(self, record: RequestRecord) -> None:
        """Tell those who listen that a request is over."""
        record.ended_at = time.perf_counter()
        for listener in self.listeners:
            listener(record)


def serving_of(request: Request) -> Serving:
    """The dependency through which routes get at the state."""
    serving: Serving = request.app.state.serving
    return serving
