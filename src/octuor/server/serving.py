"""What all routes share: models, accounts, settings, and who wants to hear of finished requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from octuor.accounts import Accounts, Admission, Key
from octuor.server.errors import ApiError
from octuor.server.registry import Registry, Served
from octuor.server.settings import ServerSettings


@dataclass
class Serving:
    """The server's state; one an application, at `app.state.serving`.

    registry     the loaded models; None while they load
    accounts     keys and usage; None: nobody needs a key, nothing is written down
    settings     as configured
    is_draining  the server is about to stop and takes nothing new
    """

    registry: Registry | None = None
    accounts: Accounts | None = None
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

    def find(self, name: str | None) -> Served:
        """The model of that name; None: the default one. Raises ApiError 404 and 503."""
        registry = self.models()
        return registry.default if name is None else registry.find(name)

    def admit(self, key: Key, served: Served, prompt_tokens: int) -> Admission | None:
        """Leave for one request by the key's limits; None where nobody keeps accounts. Raises AccountError."""
        if self.accounts is None:
            return None
        return self.accounts.admit(key, served.name, prompt_tokens, names=self.models().aliases(served))


def serving_of(request: Request) -> Serving:
    """The dependency through which routes get at the state."""
    serving: Serving = request.app.state.serving
    return serving
