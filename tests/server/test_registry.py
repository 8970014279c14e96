"""Names to loaded models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from octuor.api import Model
from octuor.config import GEOMETRIES
from octuor.errors import ConfigError
from octuor.server.errors import ApiError
from octuor.server.registry import HUB_IDS, PLATFORM_NAMES, Registry, Served, family_of
from server.fake_engine import FakeEngine, says
from server.http_client import pocket

ALL = (*PLATFORM_NAMES, *HUB_IDS, "dummy", "tgi")


def model(geometry: str) -> Served:
    """A model that only has a geometry."""
    fake: Any = SimpleNamespace(config=GEOMETRIES[geometry], adapters=SimpleNamespace(names=()))
    return Served(geometry, cast(Model, fake), FakeEngine(says("Hi")))


def alone() -> Registry:
    return Registry([Served("pocket", pocket(), FakeEngine(says("Hi")))])


@pytest.mark.parametrize("name", ["pocket", *ALL])
def test_one_model_has_every_name(name: str) -> None:
    assert alone().find(name).name == "pocket"


def test_names_go_to_the_nearest_family() -> None:
    registry = Registry([model("mixtral-8x7b"), model("mistral-7b"), model("mixtral-8x22b")])
    found = {name: registry.find(name).name for name in ALL}
    assert found["mistral-tiny"] == found["mistralai/Mistral-7B-Instruct-v0.2"] == "mistral-7b"
    assert found["mistral-small"] == found["mistralai/Mixtral-8x7B-Instruct-v0.1"] == "mixtral-8x7b"
    assert found["mistral-medium"] == found["open-mixtral-8x22b"] == "mixtral-8x22b"
    assert found["mistral-embed"] == found["dummy"] == found["tgi"] == "mixtral-8x7b"  # the first one


def test_families() -> None:
    families = [family_of(GEOMETRIES[name]) for name in ("mistral-7b", "mixtral-8x7b", "mixtral-8x22b")]
    assert families == ["7b", "8x7b", "8x22b"]
    assert family_of(pocket().config) is None


def test_configured_aliases_go_first() -> None:
    models = [model("mixtral-8x7b"), model("mistral-7b")]
    registry = Registry(models, {"mistral-embed": "mistral-7b", "gpt-4": "mistral-small"})
    assert registry.find("mistral-embed").name == "mistral-7b"
    assert registry.find("gpt-4").name == "mixtral-8x7b"
    assert "gpt-4" in registry.aliases(models[0])
    assert "mistral-embed" not in registry.aliases(models[0])


def test_aliases_that_lead_nowhere() -> None:
    with pytest.raises(ConfigError, match="expected one of mixtral-8x7b, found 'x'"):
        Registry([model("mixtral-8x7b")], {"a": "x"})
    with pytest.raises(ConfigError, match="found a model's own"):
        Registry([model("mixtral-8x7b"), model("mistral-7b")], {"mistral-7b": "mixtral-8x7b"})


def test_unknown_names() -> None:
    with pytest.raises(ApiError) as caught:
        alone().find("gpt-4")
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")


def test_what_is_listed() -> None:
    """Own names first; nothing that only some client sends."""
    names = [name for name, _ in Registry([model("mixtral-8x7b")], {"gpt-4": "mixtral-8x7b"}).listed()]
    assert names == ["mixtral-8x7b", *PLATFORM_NAMES, "gpt-4"]
