"""Settings of a conversation: how far their sliders go, and how they are kept as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from octuor.errors import UiError
from octuor.ui.backend import RANGES, ChatSettings, ModelCard

UNKNOWN_CONTEXT = 32_768  # Mixtral's own, where an address does not tell
MAX_SYSTEM = 32_000  # characters
NAMES = tuple(field.name for field in fields(ChatSettings))
WHOLE = ("max_new_tokens", "top_k", "seed")  # the others may have a fraction


def longest_answer(model: ModelCard | None) -> int:
    """How far the slider of new tokens goes."""
    return UNKNOWN_CONTEXT if model is None or model.context is None else model.context


def within(settings: ChatSettings, model: ModelCard | None) -> ChatSettings:
    """The settings with no longer answers than the model can give."""
    return replace(settings, max_new_tokens=min(settings.max_new_tokens, longest_answer(model)))


def from_page(values: Mapping[str, Any]) -> ChatSettings:
    """What the panel's boxes hold. An empty box has its default; a number outside the range is brought to its end."""
    known: dict[str, Any] = {}
    for name in NAMES:
        value = values.get(name)
        if name == "system":
            known[name] = str(value or "")[:MAX_SYSTEM]
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            limits = RANGES[name]
            value = min(max(value, limits.least), limits.most)
            known[name] = round(value) if name in WHOLE else float(value)
    return ChatSettings(**known)


def to_json(settings: ChatSettings) -> dict[str, Any]:
    """As `from_json` reads it."""
    return asdict(settings)


def from_json(value: object, where: str) -> ChatSettings:
    """Settings out of a file: unknown names are left out, known ones have to be right.

    Raises UiError that names the setting and `where`.
    """
    if not isinstance(value, dict):
        raise UiError(f"{where}: expected settings as an object, found {_kind(value)}")
    known: dict[str, Any] = {}
    for name in NAMES:
        if name not in value:
            continue
        found = value[name]
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if name == "system":
            if not isinstance(found, str) or len(found) > MAX_SYSTEM:
                raise UiError(f"{where}: settings.system: expected a text of at most {MAX_SYSTEM:,} characters")
        elif found is None and name == "seed":
            pass
        elif not is_number or (name in WHOLE and found != math.floor(found)):
            expected = "a whole number" if name in WHOLE else "a number"
            raise UiError(f"{where}: settings.{name}: expected {expected}, found {_kind(found)}")
        elif name in WHOLE:
            found = int(found)
        known[name] = found
    try:
        return ChatSettings(**known)
    except UiError as error:
        raise UiError(f"{where}: settings.{error}") from error


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"{value}"[:40])
