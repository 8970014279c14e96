"""Before the end nothing new is taken in: 503, and the connection is closed, so that clients go elsewhere."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from octuor.server.errors import ApiError, error_response
from octuor.server.middleware.paths import is_probe
from octuor.server.record import record_of
from octuor.server.serving import Serving

RETRY_S = 5


class DrainGate:
    """Refuses what comes while the server drains; questions about its health pass."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._serving.is_draining or is_probe(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            503,
            "This server is about to stop; ask another one, or this one later",
            code="draining",
            headers={"retry-after": str(RETRY_S), "connection": "close"},
        )
        record_of(scope).error = error
        await error_response(scope["path"], error)(scope, receive, send)
