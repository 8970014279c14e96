"""How the server is set up: defaults, overridden by `octuor.toml`, overridden by the command line.

The file's sections are the dataclasses here: [server], [limits], a [[models]] for each model, [aliases]. A section of
its own is one more dataclass with `strict`, and a field in Config.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from octuor.errors import ConfigError
from octuor.server.limits import Limits
from octuor.server.sections import strict


@strict
@dataclass(frozen=True)
class ServerSettings:
    """The section [server].

    port            0: one that is free
    allow_no_keys   answer anybody, also on an address that others reach, while no key has been made
    threads         CPU threads of each model; None: one a performance core
    max_batch       answers that are computed at once, of each model; also the largest n
    max_queue       requests that may wait beside them; more are answered with 429
    max_choices     prompts of one request, times n
    max_body_bytes  of a request; more is answered with 413
    ping_s          seconds of silence in a stream before a keep-alive comment
    limits          on connections and requests
    cors_origins    pages that may read answers beside those of this machine; "*": all
    adapter_folder  where adapters may be loaded from while the server runs; None: nowhere
    drain_timeout_s after a signal to stop, running answers may go on for this long
    log_format      "json", "text", or "auto": text on a terminal
    log_level       "debug", "info", "warning", "error"
    otel            spans are sent by OpenTelemetry, set up by its OTEL_ variables
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allow_no_keys: bool = False
    threads: int | None = None
    max_batch: int = 32
    max_queue: int = 256
    max_choices: int = 128
    max_body_bytes: int = 16_000_000
    ping_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    cors_origins: tuple[str, ...] = ()
    adapter_folder: str | None = None
    drain_timeout_s: float = 60.0
    log_format: Literal["json", "text", "auto"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otel: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port: expected 0 to 65535, found {self.port}")
        for name in ("threads", "max_batch", "max_queue", "max_choices", "max_body_bytes", "ping_s", "drain_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name}: expected more than 0, found {value}")


@strict
@dataclass(frozen=True)
class ModelSettings:
    """One [[models]].

    path          a pack, a checkpoint's folder or a Hub id; None: the pocket model
    name          its own name; None: made from path
    aliases       further names
    context       tokens of prompt and answer together; None: what the model was made for
    resident      copy the weights to memory that is never reclaimed
    memory        all that the process may take, as in "8GiB", with a single model; experts beyond it are read as needed
    cache_tokens  positions of keys and values for all requests; None: what memory allows
    cache_dtype   of keys and values
    temperature   of chats that name none
    adapters      names of LoRA adapters and their folders; they answer to "model:adapter"
    """

    path: str | None = None
    name: str | None = None
    aliases: tuple[str, ...] = ()
    context: int | None = None
    resident: bool = False
    memory: str | None = None
    cache_tokens: int | None = None
    cache_dtype: Literal["f16", "f32"] = "f16"
    temperature: float = 0.7
    adapters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature: expected 0 to 2, found {self.temperature}")
        for name in ("context", "cache_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")


@strict
@dataclass(frozen=True)
class Config:
    """All of it. models: the first one answers where nothing else is said; aliases: any name to a model's own."""

    server: ServerSettings = ServerSettings()
    models: tuple[ModelSettings, ...] = (ModelSettings(),)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: expected at least one [[models]], found none")
        if len(self.models) > 1 and any(model.memory is not None for model in self.models):
            raise ConfigError("models: expected a single [[models]] with memory, for it limits the process; found more")


def read_config(path: Path) -> Config:
    """The settings in a file. Raises ConfigError that names the file and the key."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        if "limits" in table:  # a part of [server] that is long enough for a section
            table.setdefault("server", {})["limits"] = table.pop("limits")
        text = json.dumps(table)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, TypeError) as error:  # no TOML, no UTF-8; dates, which no setting is
        raise ConfigError(f"{path}: expected TOML with text, numbers and true or false, found {error}") from error
    try:
        return TypeAdapter(Config).validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explained(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: no such setting; check the spelling"
    return f"{key}: {first['msg'].replace('Input should be', 'expected')}, found {json.dumps(first['input'])[:80]}"
