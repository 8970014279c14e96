"""What one address takes of a chat request, found out by asking: pure, no network.

OpenAI-compatible servers differ in the settings beyond temperature and top_p, in the names of two, and in how an
answer is gone on with. A request is first made with everything; what the server's refusal names is renamed or left
out, and remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from octuor.errors import UiError
from octuor.ui.backend import Ask

Continuation = Literal["prefix", "vllm", "llama.cpp"]

# What a server may not know, and what it may call it instead; None: nothing, it is left out.
SPELLINGS: Mapping[str, tuple[str | None, ...]] = {
    "max_tokens": ("max_tokens", "max_completion_tokens"),
    "seed": ("seed", "random_seed", None),
    "top_k": ("top_k", None),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty", None),
    "stream_options": ("stream_options", None),
    "temperature": ("temperature", None),
    "top_p": ("top_p", None),
}
# Left out together where a refusal names no field.
UNUSUAL = ("top_k", "repetition_penalty", "stream_options")
SETTINGS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")

# Who says it owns a model -> how its server goes on with an answer. Octuor says "mistralai", as the platform does.
CONTINUATIONS: Mapping[str, Continuation] = {"mistralai": "prefix", "vllm": "vllm", "llamacpp": "llama.cpp"}


@dataclass
class Dialect:
    """The fields that a model at an address takes, as far as is known.

    continuation  how an answer is gone on with; None: it cannot be
    spelling      field -> which of its SPELLINGS is in use
    is_proven     a request has been taken as it is made now
    """

    continuation: Continuation | None = None
    spelling: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPELLINGS, 0))
    is_proven: bool = False

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request. Raises UiError where an answer cannot be gone on with."""
        settings = ask.settings
        values: dict[str, Any] = {name: getattr(settings, name) for name in SETTINGS}
        values |= {"max_tokens": settings.max_new_tokens, "stream_options": {"include_usage": True}}
        if settings.top_k == 0:
            del values["top_k"]  # off, for which servers have different numbers
        system = settings.system.strip()
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages += [{"role": message.role, "content": message.content} for message in ask.messages]
        body: dict[str, Any] = {"model": ask.model, "messages": messages, "stream": True}
        for name, value in values.items():
            spelled = self._spelled(name)
            if value is not None and spelled is not None:
                body[spelled] = value
        if ask.continues:
            self._go_on(body)
        return body

    def learn(self, body: Mapping[str, Any], refusal: str) -> bool:
        """Change what a refusal (status 400 or 422) names; whether there is anything left to try with."""
        named = [
            name
            for name in SPELLINGS
            if (spelled := self._spelled(name)) in body and re.search(rf"\b{re.escape(str(spelled))}\b", refusal)
        ]
        if not named and not self.is_proven:
            named = [name for name in UNUSUAL if self._spelled(name) in body]
            for name in named:
                self.spelling[name] = len(SPELLINGS[name]) - 1
            return bool(named)
        named = [name for name in named if self.spelling[name] + 1 < len(SPELLINGS[name])]
        for name in named:
            self.spelling[name] += 1
        return bool(named)

    def ignored(self, ask: Ask) -> tuple[str, ...]:
        """Settings of a question that the server is not told."""
        wanted = {"seed": ask.settings.seed is not None, "top_k": ask.settings.top_k != 0}
        return tuple(name for name in SETTINGS if self._spelled(name) is None and wanted.get(name, True))

    def _spelled(self, name: str) -> str | None:
        return SPELLINGS[name][self.spelling[name]]

    def _go_on(self, body: dict[str, Any]) -> None:
        if self.continuation is None:
            raise UiError(
                f"{body['model']}: this server has no way to go on with an answer; ask it to continue in a new message"
            )
        if self.continuation == "prefix":
            body["messages"][-1]["prefix"] = True
        elif self.continuation == "vllm":
            body |= {"continue_final_message": True, "add_generation_prompt": False}


class Unprefixed:
    """Takes from an answer's text what it repeats of the message that it goes on with.

    Mistral's platform and Octuor begin with that message, others with what is new.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._held = ""

    def push(self, text: str) -> str:
        """What of the text so far is certainly new and was not handed out."""
        if not self._prefix:
            return text
        self._held += text
        if len(self._held) < len(self._prefix) and self._prefix.startswith(self._held):
            return ""
        return self.finish()

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held.removeprefix(self._prefix) if self._prefix else "", ""
        self._prefix = ""
        return held


def read_cards(body: Any) -> list[tuple[str, int | None, str]]:
    """Name, context and owner of each model of a GET /v1/models that may be talked to, each under one name."""
    cards: Sequence[Any] = body.get("data") or [] if isinstance(body, dict) else []
    found = {card["id"]: card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)}
    chosen = []
    for name, card in found.items():
        capabilities = card.get("capabilities")
        if isinstance(capabilities, dict) and capabilities.get("completion_chat") is False:
            continue
        own = card.get("name")
        if isinstance(own, str) and own != name and own in found:  # an alias, of Octuor or of Mistral's platform
            continue
        chosen.append((name, _context(card), str(card.get("owned_by") or "")))
    return chosen


def _context(card: Mapping[str, Any]) -> int | None:
    meta = card.get("meta")
    places = [card.get(key) for key in ("max_model_len", "max_context_length", "context_window", "context_length")]
    places.append(meta.get("n_ctx_train") if isinstance(meta, dict) else None)
    return next((value for value in places if isinstance(value, int) and value > 0), None)
