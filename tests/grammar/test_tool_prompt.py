"""What the model is told of tools, calls and results, in the roles that its format has."""

from __future__ import annotations

from typing import Any

import pytest

from octuor.errors import GrammarError, TokenizerError
from octuor.grammar import NO_TOOLS, TEXT, format_text, read_answer, read_response_format, read_tools, with_tools
from octuor.tokenizer import Message, encode_turns
from tokenizer_file import mixtral_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
USER: dict[str, Any] = {"role": "user", "content": "How is it in Köln?"}
CALLS = [
    {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}},
    {"id": "jklmnopqr", "function": {"name": "now", "arguments": {}}},
]


def test_without_tools_messages_stay_as_they_are() -> None:
    system: dict[str, object] = {"role": "developer", "content": "Be brief."}
    parts: dict[str, object] = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert with_tools([system, parts], NO_TOOLS) == [Message("system", "Be brief."), Message("user", "Hi")]


def test_the_model_is_told_after_the_system_messages_there_are() -> None:
    system = {"role": "system", "content": "Be brief."}
    found = with_tools([system, USER], read_tools(TOOLS))
    assert [message.role for message in found] == ["system", "system", "user"]
    assert found[0].content == "Be brief."
    told = found[1].content
    assert '{"name": "weather", "description": "The weather in a city.", "parameters": {' in told
    assert '{"name": "now", "parameters": {' in told
    assert "[TOOL_CALLS] [{" in told
    assert found == with_tools([system, USER], read_tools(TOOLS))  # nothing is drawn


@pytest.mark.parametrize(
    ("choice", "words"), [("auto", "If a function helps"), ("any", "Call a function now"), (NOW, "Call now now")]
)
def test_the_model_is_told_what_is_wanted(choice: object, words: str) -> None:
    told = with_tools([USER], read_tools(TOOLS, choice))[0].content
    assert words in told
    assert ("several calls" in told) == (choice != NOW)
    assert "several calls" not in with_tools([USER], read_tools(TOOLS, choice, False))[0].content


def test_calls_and_results_are_written_out() -> None:
    messages: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": 'It "rains".'},
        {"role": "tool", "tool_call_id": "jklmnopqr", "name": None, "content": [{"type": "text", "text": "noon"}]},
    ]
    found = with_tools(messages, NO_TOOLS)
    assert [(message.role, message.content) for message in found[1:]] == [
        (
            "assistant",
            '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}}, {"name": "now", "arguments": {}}]',
        ),
        ("user", '[TOOL_RESULTS] {"name": "weather", "content": "It \\"rains\\"."} [/TOOL_RESULTS]'),
        ("user", '[TOOL_RESULTS] {"name": "now", "content": "noon"} [/TOOL_RESULTS]'),
    ]
    assert [turn.role for turn in encode_turns(mixtral_tokenizer(), found)] == ["user", "assistant", "user"]


def test_an_earlier_answer_is_written_as_it_was() -> None:
    """Else its keys and values could not be used again."""
    use = read_tools(TOOLS)
    said = 'I look. [TOOL_CALLS] [{"name": "weather", "arguments": {"city":"Köln" }}, {"name": "now", "arguments": {}}]'
    content, calls = read_answer(said, use, seed=1)
    sent_back = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    found = with_tools([USER, {"role": "assistant", "content": content, "tool_calls": sent_back}], use)
    assert found[-1].content == said


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ({"content": "x", "tool_call_id": "unknown"}, '{"content": "x"}'),
        ({"content": "x", "name": "f"}, '{"name": "f", "content": "x"}'),
        ({"content": None}, '{"content": ""}'),
    ],
)
def test_results_of_calls_that_are_not_there(tool: dict[str, Any], expected: str) -> None:
    found = with_tools([USER, {"role": "tool", **tool}], NO_TOOLS)
    assert found[1].content == f"[TOOL_RESULTS] {expected} [/TOOL_RESULTS]"


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ("x", r"messages\[1\].tool_calls: .*list.*'x'"),
        ([3], r"messages\[1\].tool_calls\[0\]: .*3"),
        ([CALLS[0], {"function": {}}], r"messages\[1\].tool_calls\[1\]: .*an object"),
    ],
)
def test_calls_that_are_none(calls: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        with_tools([USER, {"role": "assistant", "tool_calls": calls}], NO_TOOLS)


def test_a_picture_is_refused_in_a_result_too() -> None:
    with pytest.raises(TokenizerError, match="reads text only"):
        with_tools([{"role": "tool", "content": [{"type": "image_url"}]}], NO_TOOLS)


@pytest.mark.parametrize("calls", [None, []])
def test_an_assistant_without_calls_is_left_alone(calls: object) -> None:
    assistant = {"role": "assistant", "content": "Sure,", "prefix": True, "tool_calls": calls}
    assert with_tools([USER, assistant], NO_TOOLS)[1] == Message("assistant", "Sure,", prefix=True)


def test_a_schema_is_told() -> None:
    wanted = read_response_format({"type": "json_schema", "json_schema": {"schema": {"title": "É"}}})
    assert format_text(wanted).endswith('{"title": "É"}')
    assert format_text(TEXT) == format_text(read_response_format({"type": "json_object"})) == ""
