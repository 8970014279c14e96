"""Models and routings that tests of this folder share."""

from __future__ import annotations

import pytest

from octuor.api import Model, load
from octuor.ops.native import NativeOps
from octuor.routing import Routing
from routings import small_routing
from tiny_models import random_checkpoint


@pytest.fixture(scope="session")
def pocket() -> Model:
    return load()


@pytest.fixture(scope="session")
def tiny() -> Model:
    """Random float32 weights, four experts."""
    return Model(random_checkpoint(), NativeOps(threads=2), context=None, cache_dtype="f16")


@pytest.fixture
def small() -> Routing:
    return small_routing()
