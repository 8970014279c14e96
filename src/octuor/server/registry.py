"""Names to loaded models: every name that clients of Mixtral use reaches one of the models that are there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from octuor.api import Model
from octuor.server.errors import model_not_found
from octuor.server.listen import Submits
from octuor.tokenizer import Tokenizer

# What programs written for the platform, its Hub and its clients ask for. The first group is listed by /v1/models.
PLATFORM_NAMES = (
    "mistral-tiny", "mistral-small", "mistral-medium", "open-mistral-7b", "open-mixtral-8x7b", "open-mixtral-8x22b",
)  # fmt: skip
EMBED_NAME = "mistral-embed"
CLIENT_NAMES = ("dummy", "tgi")  # huggingface_hub and text-generation send these for "whatever there is"
HUB_IDS = (
    "mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1",
    "mistralai/Mixtral-8x22B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2",
    "mistralai/Mistral-7B-v0.1",
)  # fmt: skip


class AnswerEngine(Submits, Protocol):
    """What the server needs of an engine beside listening to it; octuor.engine.engine.Engine is one."""

    n_context: int


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
    def longest_piece(self) -> int:
        """Characters of the longest token: a text has at least its length over this in tokens."""
        pieces = map(self.tokenizer.piece_bytes, range(self.tokenizer.n_words))
        return max(len(piece.decode("utf-8", "replace")) for piece in pieces)


class Registry:
    """The loaded models by every name they answer to.

    models   in the order of the configuration; the first one is the default
    aliases  further names, to the models' own names; they go before the names that are known by default
    embed    own name of the model behind mistral-embed; None: the default model
    """

    def __init__(
        self, models: Sequence[Served], aliases: Mapping[str, str] | None = None, *, embed: str | None = None
    ) -> None:
        self.models = tuple(models)
        self._by_name: dict[str, Served] = {}
        default = self.models[0]
        for name in (*PLATFORM_NAMES, *CLIENT_NAMES, *HUB_IDS, EMBED_NAME):
            self._by_name[name] = default
        own = {served.name: served for served in self.models}
        if embed is not None:
            self._by_name[EMBED_NAME] = own[embed]
        for alias, target in (aliases or {}).items():
            self._by_name[alias] = own[target]
        self._by_name.update(own)

    @property
    def default(self) -> Served:
        """The model that answers where a client names none."""
        return self.models[0]

    def find(self, name: str) -> Served:
        """The model of that name; ApiError 404 where there is none."""
        served = self._by_name.get(name)
        if served is None:
            raise model_not_found(name, [served.name for served in self.models])
        return served

    def aliases(self, served: Served) -> list[str]:
        """The other names of a model."""
        return [name for name, found in self._by_name.items() if found is served and name != served.name]

    def listed(self) -> list[tuple[str, Served]]:
        """Names worth listing: the models' own, then the platform's and the configured ones."""
        hidden = {*CLIENT_NAMES, *HUB_IDS}
        own = [(served.name, served) for served in self.models]
        others = [(name, found) for name, found in self._by_name.items() if name != found.name and name not in hidden]
        return own + others
