"""What the page says, in five languages: one table, from the tables of its parts.

A text is asked for by its key, `say("de", "send")`. Components take the keys of `gr.I18n(**translations())`, which the
browser translates by its own language before anything has been asked of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from octuor.ui.texts_chat import CHAT
from octuor.ui.texts_memory import MEMORY
from octuor.ui.texts_observatory import OBSERVATORY

Language = Literal["en", "fr", "de", "it", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)  # a row of the table has its texts in this order
NAMES: Mapping[Language, str] = {
    "en": "English",
    "fr": "Français",
    "de": "Deutsch",
    "it": "Italiano",
    "es": "Español",
}
Row = tuple[str, str, str, str, str]

TABLE: Mapping[str, Row] = {**CHAT, **OBSERVATORY, **MEMORY}


def say(language: Language, key: str, **values: object) -> str:
    """One text, with {names} in it replaced by values."""
    text = TABLE[key][LANGUAGES.index(language)]
    return text.format(**values) if values else text


def language_of(tag: str | None) -> Language:
    """The language nearest to a browser's, such as fr-CA; English where none is near."""
    known = (tag or "").lower().replace("_", "-").partition("-")[0]
    return next((language for language in LANGUAGES if language == known), "en")


def number(language: Language, value: float, digits: int = 0) -> str:
    """A number as it is written in a language: 12,345.6, 12.345,6, 12 345,6."""
    text = f"{value:,.{digits}f}"
    if language == "en":
        return text
    # a narrow space that no line is broken at
    thousands = {"fr": "\u202f", "de": ".", "it": ".", "es": "\u202f"}[language]
    return text.translate({ord(","): thousands, ord("."): ","})


def translations() -> dict[str, dict[str, str]]:
    """All texts by language and key."""
    return {language: {key: row[n] for key, row in TABLE.items()} for n, language in enumerate(LANGUAGES)}
