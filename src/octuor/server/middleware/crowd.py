"""How many requests may be in progress at once: the next one is told to come again, before its body is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from octuor.server.errors import ApiError, error_response
from octuor.server.middleware.paths import is_probe
from octuor.server.record import record_of

RETRY_S = 1


class CrowdLimit:
    """Answers 429 from max_requests on; questions about the server's health do not count."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app = app
        self._max_requests = max_requests
        self._n = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_probe(scope):
            await self._app(scope, receive, send)
            return
        if self._n >= self._max_requests:
            error = ApiError(
                429,
                f"The server is busy: expected at most {self._max_requests} requests at once; try again later",
                code="too_many_requests",
                headers={"retry-after": str(RETRY_S)},
            )
            record_of(scope).error = error
            await error_response(scope["path"], error)(scope, receive, send)
            return
        self._n += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._n -= 1
