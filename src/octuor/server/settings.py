"""How the server is set up: defaults, overridden by `octuor.toml`, overridden by the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from octuor.server.limits import Limits


@dataclass(frozen=True)
class ServerSettings:
    """Settings that routes and the server read.

    max_body_bytes  of a request; more is answered with 413
    max_choices     n, and prompts of one request
    ping_s          seconds of silence in a stream before a keep-alive comment
    limits          on connections and requests
    cors_origins    pages that may read answers beside those of this machine; "*": all
    drain_timeout_s after a signal to stop, running answers may go on for this long
    log_format      "json", "text", or "auto": text on a terminal
    log_level       "debug", "info", "warning", "error"
    otel            spans are sent by OpenTelemetry, set up by its OTEL_ variables
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body_bytes: int = 16_000_000
    max_choices: int = 128
    ping_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    cors_origins: tuple[str, ...] = ()
    drain_timeout_s: float = 60.0
    log_format: str = "auto"
    log_level: str = "info"
    otel: bool = False
