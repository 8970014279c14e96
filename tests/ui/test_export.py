"""Conversations as files: what is exported comes back, and hostile files do nothing but be refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octuor.errors import UiError
from octuor.ui.backend import ChatSettings
from octuor.ui.conversations import FILE_NAME, MAX_CONTENT, MAX_TURNS, Conversation, Conversations, Turn
from octuor.ui.export import MAX_FILE, file_name, keep, parse, to_json, to_markdown

OWNER = "browser:ann"
CONVERSATION = Conversation("1", "Fénelon & <b>co</b>", 0.0, 0.0, "mixtral", ChatSettings(system="Be\nbrief.", top_k=0))
TURNS = (
    Turn("user", "Say `a`\n\n```python\nprint('ü')\n```"),
    Turn("assistant", "$$x^2$$ <script>alert(1)</script>", "length", "mixtral", 10, 20, 3.5),
    Turn("user", "And?"),
    Turn("assistant", "", "cancelled", "other"),
)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Conversations]:
    conversations = Conversations(tmp_path / FILE_NAME)
    yield conversations
    conversations.close()


def test_json_comes_back_as_it_was(kept: Conversations) -> None:
    imported = parse(to_json(CONVERSATION, TURNS), "a.json")
    made = keep(kept, OWNER, imported)
    assert (made.title, made.model, made.settings) == (CONVERSATION.title, "mixtral", CONVERSATION.settings)
    assert tuple(replace(turn, id=0) for turn in kept.turns(OWNER, made.id)) == TURNS
    assert (
        json.loads(to_json(made, kept.turns(OWNER, made.id)))["messages"]
        == json.loads(to_json(CONVERSATION, TURNS))["messages"]
    )


def test_markdown_has_everything_that_was_said() -> None:
    text = to_markdown(CONVERSATION, TURNS)
    assert text.startswith("# Fénelon & <b>co</b>\n\n1970-01-01 00:00 UTC · mixtral\n\n> Be\n> brief.\n\n## User\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## User",
        "## mixtral",
        "## User",
        "## other",
    ]
    assert TURNS[0].content in text


def test_messages_as_other_programs_write_them_can_be_imported() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is an octet?"},
        {"role": "assistant", "content": "Eight."},
    ]
    for document in (messages, {"messages": messages, "model": "other"}):
        imported = parse(json.dumps(document), "a.json")
        assert imported.settings == ChatSettings(system="Be brief.")
        assert imported.title == "What is an octet?"
        assert [turn.content for turn in imported.turns] == ["What is an octet?", "Eight."]
        assert imported.turns[1].finish == "stop"


def changed(path: list[str | int], value: Any) -> str:
    document = json.loads(to_json(CONVERSATION, TURNS))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a conversation as JSON"),
        ("{", "expected a conversation as JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"messages": ' * 50_000, "nested too deeply"),
        ('{"messages": [NaN]}', "NaN is not JSON"),
        ('{"messages": [' + "9" * 10_000 + "]}", "expected a conversation as JSON"),
        ("3", "an object with a list of messages"),
        ('{"messages": {}}', "an object with a list of messages"),
        ("[]", "at least one message"),
        ('[{"role": "system", "content": "x"}]', "at least one message"),
        ('[{"role": "system", "content": 3}]', "message 1: content: expected a text"),
        ("[null]", "message 1: expected an object"),
        (changed(["format"], "other"), "expected octuor-conversation of version 1"),
        (changed(["version"], 2), "expected octuor-conversation of version 1"),
        (changed(["title"], {"a": 1}), "title: expected a text"),
        (changed(["title"], "  "), "name is empty"),
        (changed(["model"], 3), "model: expected a name"),
        (changed(["model"], "x" * 500), "model: expected a name"),
        (changed(["messages", 1, "role"], "tool"), 'message 2: role: expected "user" or "assistant"'),
        (changed(["messages", 1, "role"], ["user"]), "message 2: role"),
        (changed(["messages", 0, "content"], None), "message 1: content: expected a text"),
        (changed(["messages", 0, "content"], [{"type": "file"}]), "message 1: content: expected a text"),
        (changed(["messages", 0, "content"], "x" * (MAX_CONTENT + 1)), "message 1: expected at most 1,000,000"),
        (changed(["messages"], [{"role": "user", "content": ""}] * (MAX_TURNS + 1)), "at most 10,000 messages"),
        (changed(["messages", 1, "finish"], "<b>"), "message 2: finish: expected one of"),
        (changed(["messages", 1, "finish"], []), "message 2: finish: expected one of"),
        (changed(["messages", 1, "model"], []), "message 2: model: expected a name"),
        (changed(["messages", 1, "prompt_tokens"], -1), "message 2: prompt_tokens: expected a count"),
        (changed(["messages", 1, "prompt_tokens"], True), "message 2: prompt_tokens: expected a count"),
        (changed(["messages", 1, "completion_tokens"], 2**70), "message 2: completion_tokens: expected a count"),
        (changed(["messages", 1, "tokens_per_s"], "fast"), "message 2: tokens_per_s: expected a number"),
        (changed(["settings"], []), "expected settings as an object, found a list"),
        (changed(["settings", "temperature"], "hot"), "settings.temperature: expected a number, found a text"),
        (changed(["settings", "temperature"], True), "settings.temperature: expected a number, found true or false"),
        (changed(["settings", "temperature"], None), "settings.temperature: expected a number, found null"),
        (changed(["settings", "temperature"], 7), "settings.temperature: expected 0 to 1, found 7"),
        (changed(["settings", "seed"], 1.5), "settings.seed: expected a whole number"),
        (changed(["settings", "max_new_tokens"], 0), "settings.max_new_tokens: expected 1"),
        (changed(["settings", "system"], "x" * 40_000), "settings.system: expected a text of at most 32,000"),
    ],
)
def test_what_is_not_a_conversation_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UiError) as caught:
        parse(text, "a.json")
    line = str(caught.value)
    assert message in line
    assert "\n" not in line
    assert len(line) < 300


def test_a_large_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(UiError, match="expected at most 8 MB"):
        parse("[" * (MAX_FILE + 1), "a.json")


def test_halves_of_characters_are_taken_out(kept: Conversations) -> None:
    document = '{"title": "a\\ud800", "model": "\\udfff", "messages": [{"role": "user", "content": "x\\ud800y"}]}'
    made = keep(kept, OWNER, parse(document, "a.json"))
    assert made.title == "a"
    assert kept.turns(OWNER, made.id)[0].content == "x?y"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("What is an octet?", "What-is-an-octet.md"),
        ("../../etc/passwd", "etc-passwd.md"),
        ("…", "conversation.md"),
        ("Élégie n° 3", "Élégie-n-3.md"),
    ],
)
def test_files_are_named_after_the_conversation(title: str, name: str) -> None:
    assert file_name(replace(CONVERSATION, title=title), "md") == name
