"""From settings to models that answer: weights, engines, names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from octuor.api import POCKET, Model, load
from octuor.checkpoint.memory import OnLoad
from octuor.engine.engine import Engine, EngineSettings, StepReport
from octuor.engine.room import cache_room
from octuor.errors import BackendError, ConfigError
from octuor.server.registry import Registry, Served
from octuor.server.settings import Config, ModelSettings

OnStep = Callable[[StepReport], None]


def load_registry(
    config: Config, on_load: OnLoad | None = None, on_step: Callable[[str], OnStep] | None = None
) -> Registry:
    """Load every model of the settings and start its engine.

    on_load  as in octuor.load
    on_step  from a model's name to what its engine calls after each step

    Raises what octuor.load does, and ConfigError where names clash.
    """
    models = [_load(settings, config, on_load) for settings in config.models]
    for settings, model in zip(config.models, models, strict=True):
        for name, path in settings.adapters.items():
            model.adapters.load(path, name)
    names = [_name(settings, model) for settings, model in zip(config.models, models, strict=True)]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigError(f"models.{place}.name: expected names that differ, found {name!r} twice; give them names")
    aliases = {alias: name for name, settings in zip(names, config.models, strict=True) for alias in settings.aliases}
    engines = [
        Engine(model, _engine_settings(settings, model, config), on_step=on_step(name) if on_step else None)
        for name, settings, model in zip(names, config.models, models, strict=True)
    ]
    served = [
        Served(name, model, engine, settings.temperature)
        for name, model, engine, settings in zip(names, models, engines, config.models, strict=True)
    ]
    registry = Registry(served, {**aliases, **config.aliases})
    for one in served:
        if one.model.checkpoint.tokenizer is not None:  # what the first request would wait for
            _ = one.longest_piece
            with suppress(BackendError):  # without llguidance all else is served
                _ = one.compiler
    for engine in engines:
        engine.start()
    return registry


def _load(settings: ModelSettings, config: Config, on_load: OnLoad | None) -> Model:
    return load(
        settings.path,
        threads=config.server.threads,
        context=settings.context,
        cache_dtype=settings.cache_dtype,
        resident=settings.resident,
        memory=settings.memory,
        on_load=on_load,
    )


def _name(settings: ModelSettings, model: Model) -> str:
    """The name in the settings, or a Hub id as it is, or the file's or folder's."""
    if settings.name is not None:
        return settings.name
    source = model.checkpoint.source
    if settings.path is None:
        return POCKET.stem
    if settings.path != str(source) and settings.path.count("/") == 1 and not settings.path.startswith((".", "~")):
        return settings.path
    return source.stem if source.is_file() else source.resolve().name


def _engine_settings(settings: ModelSettings, model: Model, config: Config) -> EngineSettings:
    """Memory for keys and values is shared out evenly among the models that name no amount."""
    cache_tokens = settings.cache_tokens
    if cache_tokens is None and len(config.models) > 1:
        room = cache_room(model, config.server.max_batch, settings.cache_dtype)
        cache_tokens = max(1024, room // len(config.models))
    return EngineSettings(
        max_batch=config.server.max_batch,
        max_queue=config.server.max_queue,
        cache_tokens=cache_tokens,
        cache_dtype=settings.cache_dtype,
    )
