"""From settings to models that answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.engine.engine import Engine
from octuor.errors import CheckpointError, ConfigError
from octuor.server.loading import load_registry
from octuor.server.registry import Registry
from octuor.server.settings import Config, ModelSettings, ServerSettings
from tiny_models import random_checkpoint, write_model


def stop(registry: Registry) -> None:
    for served in registry.models:
        assert isinstance(served.engine, Engine)
        served.engine.stop()


def test_the_pocket_model_is_the_default() -> None:
    registry = load_registry(Config())
    try:
        assert [served.name for served in registry.models] == ["pocket"]
        assert registry.find("mistral-tiny").n_context == 1024
    finally:
        stop(registry)


def test_several_models_share_the_memory(tmp_path: Path) -> None:
    path = write_model(random_checkpoint(), tmp_path / "tiny.octuor")
    models = (ModelSettings(str(path), aliases=("gpt-4",), temperature=0.2), ModelSettings(context=64))
    server = ServerSettings(max_batch=4, threads=1)
    registry = load_registry(Config(server, models, {"mistral-embed": "pocket"}))
    try:
        tiny, pocket = registry.models
        assert (tiny.name, tiny.temperature, pocket.n_context) == ("tiny", 0.2, 64)
        assert registry.find("gpt-4") is tiny
        assert registry.find("mistral-embed") is pocket
        assert all(served.engine.stats().pages > 0 for served in registry.models)
    finally:
        stop(registry)


def test_a_model_without_a_tokenizer_is_served_too(tmp_path: Path) -> None:
    path = write_model(random_checkpoint(tokenizer=False), tmp_path / "ids.octuor")
    stop(load_registry(Config(models=(ModelSettings(str(path)),))))


def test_names_that_clash() -> None:
    with pytest.raises(ConfigError, match=r"models\.1\.name: expected names that differ, found 'pocket' twice"):
        load_registry(Config(models=(ModelSettings(), ModelSettings())))


def test_files_that_are_not_there() -> None:
    with pytest.raises(CheckpointError):
        load_registry(Config(models=(ModelSettings("nowhere.octuor"),)))
