"""Servers over a real engine: one whose model says what it is told to say, one with the pocket model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from octuor.api import Model
from octuor.engine.engine import Engine, EngineSettings
from octuor.ops.native import NativeOps
from octuor.server.registry import Registry, Served
from server.http_client import Client
from tiny_models import EOS, scripted_checkpoint


@contextmanager
def served(model: Model, *, cache_tokens: int) -> Iterator[Client]:
    """Requests to a server that answers with a model."""
    with Engine(model, EngineSettings(cache_tokens=cache_tokens)) as engine:
        client = Client()
        client.serving.registry = Registry([Served("scripted", model, engine)])
        yield client


def scripted_model(script: Sequence[int], *, then: int = EOS) -> Model:
    """A model that answers every prompt with the script, then with `then`."""
    checkpoint = scripted_checkpoint(script, then=then)
    return Model(checkpoint, NativeOps(threads=1), context=None, cache_dtype="f32")


@contextmanager
def scripted(script: Sequence[int], *, then: int = EOS) -> Iterator[Client]:
    """Requests to a server whose model says the script."""
    with served(scripted_model(script, then=then), cache_tokens=4096) as client:
        yield client
