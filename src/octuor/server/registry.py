"""Names to loaded models: every name that clients of Mixtral use reaches one of the models that are there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from octuor.api import Model
from octuor.config import ModelConfig
from octuor.engine.engine import EngineStats
from octuor.errors import ConfigError
from octuor.grammar import GrammarCompiler
from octuor.server.errors import model_not_found
from octuor.server.listen import Submits
from octuor.tokenizer import Tokenizer

Family = Literal["7b", "8x7b", "8x22b"]

# What programs written for the platform and the Hub ask for, with the families that come nearest, nearest first.
PLATFORM_NAMES: Mapping[str, tuple[Family, ...]] = {
    "mistral-tiny": ("7b",),
    "open-mistral-7b": ("7b",),
    "mistral-small": ("8x7b",),
    "open-mixtral-8x7b": ("8x7b",),
    "mistral-medium": ("8x22b", "8x7b"),
    "open-mixtral-8x22b": ("8x22b", "8x7b"),
    "mistral-embed": (),
}
HUB_IDS: Mapping[str, tuple[Family, ...]] = {
    "mistralai/Mistral-7B-v0.1": ("7b",),
    "mistralai/Mistral-7B-Instruct-v0.1": ("7b",),
    "mistralai/Mistral-7B-Instruct-v0.2": ("7b",),
    "mistralai/Mixtral-8x7B-v0.1": ("8x7b",),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("8x7b",),
    "mistralai/Mixtral-8x22B-v0.1": ("8x22b", "8x7b"),
    "mistralai/Mixtral-8x22B-Instruct-v0.1": ("8x22b", "8x7b"),
}
CLIENT_NAMES = ("dummy", "tgi")  # huggingface_hub and text-generation send these for "whatever there is"
EMBED_NAME = "mistral-embed"


def family_of(config: ModelConfig) -> Family | None:
    """Which of Mistral's models has this geometry; None: another one."""
    if config.is_dense:
        return "7b" if config.dim == 4096 else None
    sizes: dict[int, Family] = {4096: "8x7b", 6144: "8x22b"}
    return sizes.get(config.dim) if config.n_experts == 8 else None


class AnswerEngine(Submits, Protocol):
    """What the server needs of an engine beside listening to it; octuor.engine.engine.Engine is one."""

    n_context: int

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""

    def stats(self) -> EngineStats:
        """How things stand; from any thread."""

    def drain(self) -> None:
        """Refuse new requests."""

    def stop(self) -> None:
        """End what is under way with an error, and the engine."""


@dataclass(frozen=True)
class Served:
    """A loaded model with the engine that answers for it.

    name         its own name, which /v1/models lists first
    temperature  of chats that name none
    created      seconds since 1970, for the model card
    """

    name: str
    model: Model
    engine: AnswerEngine
    temperature: float = 0.7  # as on Mistral's platform
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def n_context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.engine.n_context

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own. Raises TokenizerError where it has none."""
        return self.model.tokenizer

    @cached_property
    def compiler(self) -> GrammarCompiler:
        """The grammar compiler of the model's tokens. Raises BackendError without llguidance."""
        return GrammarCompiler(self.tokenizer, self.model.config.vocab_size)

    @cached_property
    def compiling(self) -> Executor:
        """Where grammars are compiled: apart from other work, for bad ones take their time."""
        return ThreadPoolExecutor(2, thread_name_prefix="octuor-grammars")

    @cached_property
    def longest_piece(self) -> int:
        """Characters of the longest token: a text has at least its length over this in tokens."""
        pieces = map(self.tokenizer.piece_bytes, range(self.tokenizer.n_words))
        return max(len(piece.decode("utf-8", "replace")) for piece in pieces)


class Registry:
    """The loaded models by every name they answer to.

    models   in the order of the configuration; the first one is the default
    aliases  further names, to a model's own or any other that is known; they go before those known from the start

    Raises ConfigError where an alias leads nowhere.
    """

    def __init__(self, models: Sequence[Served], aliases: Mapping[str, str] | None = None) -> None:
        self.models = tuple(models)
        own = {served.name: served for served in self.models}
        self._by_name = dict.fromkeys(CLIENT_NAMES, self.default)
        for name, families in {**PLATFORM_NAMES, **HUB_IDS}.items():
            self._by_name[name] = self._nearest(families)
        self._by_name |= own
        known = dict(self._by_name)
        for alias, target in (aliases or {}).items():
            if target not in known:
                raise ConfigError(f"aliases.{alias}: expected one of {', '.join(own)}, found {target!r}")
            if alias in own and own[alias] is not known[target]:
                raise ConfigError(f"aliases.{alias}: expected a name that no model has, found a model's own")
            self._by_name[alias] = known[target]
        self._aliases = {
            served.name: tuple(name for name, found in self._by_name.items() if found is served and name != served.name)
            for served in self.models
        }

    def _nearest(self, families: Sequence[Family]) -> Served:
        """The first model of the first family that there is, else the default."""
        for family in families:
            for served in self.models:
                if family_of(served.model.config) == family:
                    return served
        return self.default

    @property
    def default(self) -> Served:
        """The model that answers where a client names none."""
        return self.models[0]

    def find(self, name: str) -> Served:
        """The model of that name; ApiError 404 where there is none."""
        served = self._by_name.get(name)
        if served is None:
            served, _ = self._adapted(name)
        if served is None:
            raise model_not_found(name, [name for name, _ in self.own()])
        return served

    def adapter(self, name: str) -> str | None:
        """The adapter that a name asks for beside a model: "mixtral:legal", or "legal" alone."""
        return None if name in self._by_name else self._adapted(name)[1]

    def _adapted(self, name: str) -> tuple[Served | None, str | None]:
        base, _, adapter = name.rpartition(":")
        for served in self.models:
            if adapter in served.model.adapters.names and (not base or self._by_name.get(base) is served):
                return served, adapter
        return None, None

    def own(self) -> list[tuple[str, Served]]:
        """The models' own names, each followed by those of its adapters."""
        return [
            (name, served)
            for served in self.models
            for name in (served.name, *(f"{served.name}:{adapter}" for adapter in served.model.adapters.names))
        ]

    def aliases(self, served: Served) -> tuple[str, ...]:
        """The other names of a model."""
        return self._aliases[served.name]

    def listed(self) -> list[tuple[str, Served]]:
        """Names worth listing: the models' own and their adapters', then the platform's and the configured ones."""
        hidden = {*CLIENT_NAMES, *HUB_IDS}
        others = [(name, found) for name, found in self._by_name.items() if name != found.name and name not in hidden]
        return self.own() + others
