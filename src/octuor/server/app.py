"""The ASGI application: shared state, routers, error bodies."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware import Middleware

from octuor import __version__
from octuor.server import errors, middleware
from octuor.server.routes import ROUTERS
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings


def create_app(
    serving: Serving, settings: ServerSettings | None = None, *, front: Sequence[Middleware] = ()
) -> FastAPI:
    """The application over what is served. Engines are started and stopped by whoever made them.

    settings  None: serving's own
    front     layers before all others, outermost first, which may take requests for themselves
    """
    if settings is not None:
        serving.settings = settings
    app = FastAPI(
        title="Octuor",
        version=__version__,
        description="Mixtral and its family over HTTP, in the words of Mistral's, OpenAI's and TGI's clients.",
        middleware=[*front, *middleware.stack(serving)],
        strict_content_type=False,  # route.JsonRequest is strict, and says what it found
    )
    app.state.serving = serving
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
