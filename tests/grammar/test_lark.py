"""The text of grammars: which rules there are, and that nothing a request sends can add one."""

from __future__ import annotations

from typing import Any

import pytest

from octuor.grammar import NO_TOOLS, TEXT, AnswerFormat, GrammarCompiler, ToolUse, read_tools
from octuor.grammar.lark import MAX_CALLS, answer_grammar

TOOLS = [{"name": "f", "parameters": {"properties": {"x": {}}}}, {"name": "g"}]


def rules(answer_format: AnswerFormat, use: ToolUse = NO_TOOLS, *, is_chat: bool = True) -> dict[str, str]:
    """Names of rules to what they are."""
    lines = answer_grammar(answer_format, use, is_chat=is_chat).text.splitlines()
    return dict(line.split(": ", 1) for line in lines[1:])


@pytest.mark.parametrize(
    ("kind", "choice", "start"),
    [
        ("json_object", "none", "answer"),
        ("text", "auto", "answer | call_head calls"),
        ("json_object", "auto", "answer | call_head calls"),
        ("text", "any", "call_head calls"),
        ("json_object", "any", "call_head calls"),
    ],
)
def test_an_answer_is_text_or_calls(kind: Any, choice: str, start: str) -> None:
    assert rules(AnswerFormat(kind), read_tools(TOOLS, choice))["start"] == start


def test_only_plain_text_may_come_before_calls() -> None:
    assert "call_head[lazy]" in rules(TEXT, read_tools(TOOLS))
    assert rules(AnswerFormat("json_object"), read_tools(TOOLS))["call_head"] == '" "? "[TOOL_CALLS]"'


@pytest.mark.parametrize(("parallel", "most"), [(True, MAX_CALLS), (False, 1)])
def test_how_many_calls(parallel: bool, most: int) -> None:
    expected = f'" [" call (", " call){{0,{most - 1}}} "]"' if most > 1 else '" [" call "]"'
    assert rules(TEXT, read_tools(TOOLS, "any", parallel))["calls"] == expected


def test_a_named_function_is_the_only_one() -> None:
    found = rules(TEXT, read_tools(TOOLS, {"function": {"name": "g"}}))
    assert found["call"] == "call0"
    assert '\\"g\\"' in found["call0"]


def test_the_blank_is_for_chats() -> None:
    assert rules(AnswerFormat("json_object"))["answer"] == '" "? json'
    assert rules(AnswerFormat("json_object"), is_chat=False)["answer"] == "json"


def test_fields_are_where_they_are_written() -> None:
    grammar = answer_grammar(AnswerFormat("json_object", field="the format"), read_tools(TOOLS), is_chat=True)
    lines = grammar.text.splitlines()
    found = {field: lines[number - 1].split(":")[0] for number, field in grammar.fields.items()}
    assert found == {
        "the format": "json",
        "tools[0].parameters": "arguments0",
        "tools[1].parameters": "arguments1",
    }


@pytest.mark.parametrize(
    "text", ["a/\nstart: /b/", "a/ | /b", "/", "//", "a\r\nb", '"', "#c", "%llguidance {}", "a\u2028b"]
)
def test_an_expression_stays_one(compiler: GrammarCompiler, text: str) -> None:
    grammar = answer_grammar(AnswerFormat("regex", pattern=text), NO_TOOLS, is_chat=False)
    assert [line.split(":")[0] for line in grammar.text.split("\n")[1:]] == ["PATTERN", "ANSWER", "answer", "start"]
    compiler.regex(text)


@pytest.mark.parametrize("text", ['"}\nstart: "b"', "</s>", "%json {}", "\\", "\u2028"])
def test_a_schema_stays_one(compiler: GrammarCompiler, text: str) -> None:
    schema = {"type": "object", "properties": {text: {"const": text}}, "required": [text], "title": text}
    grammar = answer_grammar(AnswerFormat("json_schema", schema), NO_TOOLS, is_chat=True)
    assert len(grammar.text.splitlines()) == 4
    assert compiler.json_schema(schema).matcher().mask().any()
