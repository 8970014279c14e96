"""What all routes share: models, accounts, settings, and who wants to hear of finished requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request

from octuor.server.errors import ApiError
from octuor.server.record import RequestRecord
from octuor.server.registry import Registry, Served
from octuor.server.settings import ServerSettings

Listener = Callable[[RequestRecord], None]


@dataclass
class Serving:
    """The server's state; one an application, at `app.state.serving`.

    registry     the loaded models; None while they load
    settings     as configured
    is_draining  the server is about to stop and takes nothing new
    """

    registry: Registry | None = None
    settings: ServerSettings = field(default_factory=ServerSettings)
    is_draining: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.registry is not None and not self.is_draining

    def models(self) -> Registry:
        """The loaded models. Raises ApiError 503 while they load."""
        if self.registry is None:
            raise ApiError(503, "The model is still loading; try again", code="loading", headers={"retry-after": "5"})
        return self.registry

    def find(self, name: str | None, record: RequestRecord) -> Served:
        """The model of that name, or the default one, noted in the request's record."""
        registry = self.models()
        served = registry.default if name is None else registry.find(name)
        record.model, record.asked = served.name, served.name if name is None else name
        return served


def serving_of(request: Request) -> Serving:
    """The dependency through which routes get at the state."""
    serving: Serving = request.app.state.serving
    return serving
