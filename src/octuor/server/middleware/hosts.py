"""Names that may stand for this machine while it answers anybody on it.

Without keys only programs of this machine may ask, and the browser is one: a stranger's page whose name is made to
stand for 127.0.0.1 (DNS rebinding) is of one origin with a server there. Its requests still carry the stranger's name.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from octuor.server.errors import ApiError, error_response
from octuor.server.middleware.paths import is_probe
from octuor.server.record import record_of
from octuor.server.serving import Serving
from octuor.server.sockets import is_loopback


class OwnNames:
    """Answers 403 to other names, on a loopback address, while no key has been made."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app = app
        self._serving = serving
        self._is_local = is_loopback(serving.settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accounts = self._serving.accounts
        if scope["type"] == "http" and self._is_local and accounts is not None and not accounts.has_keys():
            host = Headers(scope=scope).get("host", "")
            if not is_own(host) and not is_probe(scope):
                error = record_of(scope).error = ApiError(
                    403,
                    f"host: expected localhost or an address while there are no keys, found {host[:80]!r}; "
                    "make a key with `octuor keys create NAME`",
                    code="unknown_host",
                )
                await error_response(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_own(host: str) -> bool:
    """Whether a Host header names this machine or an address, which no stranger can give to another machine."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
