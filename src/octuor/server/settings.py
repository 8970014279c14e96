"""How the server is set up: defaults, overridden by `octuor.toml`, overridden by the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """Settings that routes and the server read.

    max_body_bytes  of a request; more is answered with 413
    max_choices     n, and prompts of one request
    ping_s          seconds of silence in a stream before a keep-alive comment
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body_bytes: int = 16_000_000
    max_choices: int = 128
    ping_s: float = 10.0
