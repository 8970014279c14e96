"""Tools and the choice between them, as clients send them."""

from __future__ import annotations

from typing import Any

import pytest

from octuor.errors import GrammarError
from octuor.grammar import NO_TOOLS, Tool, ToolUse, read_tools
from octuor.grammar.tools import MAX_TOOLS, NO_PARAMETERS

PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def tool(name: str, index: int = 0) -> Tool:
    return Tool(name, "", NO_PARAMETERS, f"tools[{index}].function.parameters")


A, B = function("a"), function("b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (function("a", description="d", parameters=PARAMETERS, strict=True), Tool("a", "d", PARAMETERS)),
        ({"function": {"name": "a", "parameters": PARAMETERS, "description": None}}, Tool("a", "", PARAMETERS)),
        ({"type": "function", "name": "a", "parameters": PARAMETERS}, Tool("a", "", PARAMETERS)),
        (function("a", parameters={"properties": {}}), Tool("a", "", {"type": "object", "properties": {}})),
        (function("a", parameters={}), Tool("a", "", NO_PARAMETERS)),
        (function("a", parameters=None), Tool("a", "", NO_PARAMETERS)),
        (function("get-weather_2.now"), Tool("get-weather_2.now", "", NO_PARAMETERS)),
    ],
)
def test_one_tool(value: dict[str, Any], expected: Tool) -> None:
    found = read_tools([value]).tools[0]
    assert (found.name, found.description, found.parameters) == (
        expected.name,
        expected.description,
        expected.parameters,
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolUse((tool("a"), tool("b", 1)), "auto")),
        ("auto", ToolUse((tool("a"), tool("b", 1)), "auto")),
        ("none", NO_TOOLS),
        ("any", ToolUse((tool("a"), tool("b", 1)), "required")),
        ("required", ToolUse((tool("a"), tool("b", 1)), "required")),
        (B, ToolUse((tool("a"), tool("b", 1)), "required", "b", False)),
        ({"function": {"name": "b"}}, ToolUse((tool("a"), tool("b", 1)), "required", "b", False)),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [B]}},
            ToolUse((tool("b", 1),), "auto"),
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [A]}},
            ToolUse((tool("a"),), "required"),
        ),
    ],
)
def test_choices(choice: object, expected: ToolUse) -> None:
    assert read_tools([A, B], choice) == expected


def test_what_a_call_may_name() -> None:
    assert [tool.name for tool in read_tools([A, B], B).callable_tools] == ["b"]
    assert [tool.name for tool in read_tools([A, B], "any").callable_tools] == ["a", "b"]


@pytest.mark.parametrize(("parallel", "expected"), [(None, True), (True, True), (False, False)])
def test_parallel_calls(parallel: object, expected: bool) -> None:
    assert read_tools([A], "any", parallel).is_parallel == expected


@pytest.mark.parametrize(("tools", "choice"), [(None, None), ([], "auto"), (None, "none"), ([], None)])
def test_no_tools(tools: object, choice: object) -> None:
    assert read_tools(tools, choice) is NO_TOOLS


@pytest.mark.parametrize(
    ("tools", "choice", "parallel", "message"),
    [
        ({}, None, None, "tools: .*list"),
        ("a", None, None, "tools: .*list"),
        ([3], None, None, r"tools\[0\]: .*3"),
        ([A, {"type": "web_search"}], None, None, r"tools\[1\].type: .*'web_search'"),
        ([{"type": "function"}], None, None, r"tools\[0\].function: .*null"),
        ([{"type": "function", "function": {}}], None, None, r"tools\[0\].function.name: .*null"),
        ([function("a b")], None, None, r"tools\[0\].function.name: .*'a b'"),
        ([function('a"')], None, None, r"tools\[0\].function.name: "),
        ([function("é")], None, None, r"tools\[0\].function.name: "),
        ([function("a" * 65)], None, None, r"tools\[0\].function.name: "),
        ([function("a", description=3)], None, None, r"tools\[0\].function.description: .*3"),
        ([function("a", parameters="x")], None, None, r"tools\[0\].function.parameters: .*'x'"),
        ([function("a", parameters={"type": "array"})], None, None, r"tools\[0\].function.parameters.type: .*'array'"),
        ([A, A], None, None, r"tools\[1\].function.name: .*'a' twice"),
        ([function(f"f{n}") for n in range(MAX_TOOLS + 1)], None, None, "tools: .*at most 128, found 129"),
        ([A], "always", None, "tool_choice: .*'always'"),
        ([A], 3, None, "tool_choice: .*3"),
        ([A], {"type": "function"}, None, "tool_choice: .*an object"),
        ([A], {"type": "allowed_tools"}, None, "tool_choice: .*an object"),
        ([A], {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": ["a"]}}, None, "tool_choice: .*'a'"),
        ([A], function("c"), None, r"tool_choice: .*\(a\), found 'c'"),
        ([], function("c"), None, "tool_choice: .*there are none"),
        ([], "any", None, "tool_choice: .*tools"),
        ([A], None, "no", "parallel_tool_calls: .*'no'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_field(tools: object, choice: object, parallel: object, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as error:
        read_tools(tools, choice, parallel)
    assert len(str(error.value)) < 300


def test_as_many_tools_as_may_be_compile(compiler: Any) -> None:
    from octuor.grammar import TEXT

    tools = [function(f"f{n}", description="x" * 1000, parameters=PARAMETERS) for n in range(MAX_TOOLS)]
    grammar = compiler.compile(TEXT, read_tools(tools, "any"))
    assert grammar.matcher().mask().any()
