"""Which paths are for operators: asked every few seconds, and answered whatever else the server refuses."""

from __future__ import annotations

from starlette.types import Scope

PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})


def is_probe(scope: Scope) -> bool:
    """Whether a request asks how the server is."""
    return scope["path"] in PROBES
