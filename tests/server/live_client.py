"""A server over the pocket model and the real engine, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import octuor
from octuor.engine.engine import Engine, EngineSettings
from octuor.server.app import create_app
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from server.http_client import Client


@contextmanager
def live_client(n_context: int | None = None, *, max_batch: int = 4) -> Iterator[Client]:
    """Requests to it; in the end nothing is under way and no page is held."""
    model = octuor.load(context=n_context, threads=1)
    with Engine(model, EngineSettings(max_batch=max_batch)) as engine:
        client = Client()
        served = Served("pocket", model, engine)
        client.serving = Serving(Registry([served]))
        client.app = create_app(client.serving)
        yield client
        assert engine.is_idle
        served.compiler.close()
