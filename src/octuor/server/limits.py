"""What one client may take of the server before it is stopped: sizes, counts, times."""

from __future__ import annotations

from dataclasses import dataclass, fields

from octuor.errors import ConfigError
from octuor.server.sections import strict


@strict
@dataclass(frozen=True)
class Limits:
    """Limits on connections and requests. Times are seconds.

    max_head_bytes      of request line and headers; more is answered with 431
    max_headers         lines among them; more is answered with 431
    head_timeout_s      from the first byte of a head, or a new connection, to its end; then the connection is closed
    body_timeout_s      for the first bytes of a body and beyond the time that body_bytes_per_s gives; then 408
    body_bytes_per_s    the least speed of a body
    keep_alive_s        an idle connection is closed after this
    send_timeout_s      a client that takes nothing for this long is cut off, its work cancelled
    max_connections     open at once; more are closed with 429
    max_requests        in progress at once, waiting in the engine's queue among them; more are answered with 429
    max_bodies_bytes    held at once of all requests together; more are answered with 429
    """

    max_head_bytes: int = 65_536
    max_headers: int = 100
    head_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    body_bytes_per_s: int = 10_000
    keep_alive_s: float = 75.0
    send_timeout_s: float = 60.0
    max_connections: int = 4096
    max_requests: int = 1024
    max_bodies_bytes: int = 268_435_456

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{setting.name}: expected more than 0, found {value}")
