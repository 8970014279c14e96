"""What every request passes through before a route, as plain ASGI: nothing here holds an answer back."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from octuor.server.middleware.body import BodyLimits
from octuor.server.middleware.cors import cors_options
from octuor.server.middleware.crowd import CrowdLimit
from octuor.server.middleware.drain import DrainGate
from octuor.server.middleware.hosts import OwnNames
from octuor.server.middleware.observe import Observe
from octuor.server.serving import Serving


def stack(serving: Serving) -> list[Middleware]:
    """The layers, outermost first. Whatever refuses a request is inside the one that names and logs it."""
    settings = serving.settings
    limits = settings.limits
    return [
        Middleware(Observe, serving=serving),
        Middleware(OwnNames, serving=serving),
        Middleware(CORSMiddleware, **cors_options(settings.cors_origins)),
        Middleware(DrainGate, serving=serving),
        Middleware(CrowdLimit, max_requests=limits.max_requests),
        Middleware(BodyLimits, limits=limits, max_body_bytes=settings.max_body_bytes),
    ]
