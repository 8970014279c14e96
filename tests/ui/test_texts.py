"""The page says everything in all its languages, and nothing that is in no table."""

import ast
import string

import pytest

from architecture.source import PACKAGE
from octuor.ui.texts import LANGUAGES, NAMES, TABLE, Language, language_of, number, say, translations

KEYS = set(TABLE)


@pytest.mark.parametrize("key", sorted(TABLE))
def test_a_text_is_there_in_all_languages_with_the_same_values_in_it(key: str) -> None:
    row = TABLE[key]
    assert len(row) == len(LANGUAGES)
    for text in row:
        assert text == text.strip() != ""
    names = [sorted(name for _, name, _, _ in string.Formatter().parse(text) if name) for text in row]
    assert names == [names[0]] * len(LANGUAGES)


def test_each_text_is_said_somewhere() -> None:
    written = set()
    for path in (PACKAGE / "ui").glob("*.py"):
        if not path.name.startswith("texts"):
            tree = ast.parse(path.read_text())
            written |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    made_of_parts = {
        key
        for key in KEYS
        if key.startswith(("ended_", "starter_", "observe_", "view_", "chatbot.")) or key.endswith("_info")
    }
    assert KEYS - made_of_parts <= written


def test_every_language_has_its_name_and_all_keys() -> None:
    assert tuple(NAMES) == LANGUAGES == tuple(translations())
    assert all(set(texts) == KEYS for texts in translations().values())


def test_values_stand_in_their_places() -> None:
    assert say("de", "context_of", used="3", context="8") == "3 von 8 Token des Kontexts"
    assert say("es", "send") == "Enviar"


@pytest.mark.parametrize(
    ("tag", "language"),
    [("fr", "fr"), ("fr-CA", "fr"), ("DE_at", "de"), ("pt-BR", "en"), ("", "en"), (None, "en"), ("<script>", "en")],
)
def test_the_browsers_language_is_taken_where_it_is_known(tag: str | None, language: Language) -> None:
    assert language_of(tag) == language


def test_numbers_are_written_as_the_language_does() -> None:
    written = {language: number(language, 12345.67, 1) for language in LANGUAGES}
    assert written == {
        "en": "12,345.7",
        "fr": "12\u202f345,7",
        "de": "12.345,7",
        "it": "12.345,7",
        "es": "12\u202f345,7",
    }
