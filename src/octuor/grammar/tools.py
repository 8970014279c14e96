"""The functions a model may call, and which it must: read from a request, as plain values.

How they are told to the model is in `tool_prompt`, how an answer is held to them in `answers`, how calls are read
out of an answer in `tool_parser`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from octuor.errors import GrammarError
from octuor.grammar.wording import shown

MAX_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NO_PARAMETERS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}

Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    parameters  JSON schema of its arguments, which are an object always
    field       where the request has the schema, for messages
    """

    name: str
    description: str
    parameters: Mapping[str, object]
    field: str = "tools"


@dataclass(frozen=True)
class ToolUse:
    """What an answer may do with tools.

    tools        those the model is told of; () with mode "none"
    mode         "none": text alone; "auto": text, calls or text and then calls; "required": calls alone
    only         with "required": the one function to be called; None: any
    is_parallel  whether one answer may hold more than one call; where one function is named only if it was asked for
    """

    tools: tuple[Tool, ...] = ()
    mode: Mode = "none"
    only: str | None = None
    is_parallel: bool = True

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that a call may name."""
        return tuple(tool for tool in self.tools if self.only in (None, tool.name))


NO_TOOLS = ToolUse()


def read_tools(tools: object, tool_choice: object = None, parallel_tool_calls: object = None) -> ToolUse:
    """The fields `tools`, `tool_choice` and `parallel_tool_calls` of a chat request; null is "not given".

    tools        a list of {"type": "function", "function": {name, description, parameters}}; type may be missing, and
                 so may be `function` around the three
    tool_choice  "auto" (the default), "none", "any" or "required", {"type": "function", "function": {"name"}}, or
                 {"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}

    Raises GrammarError naming the field.
    """
    found = _read_list(tools)
    mode, names = _read_choice(tool_choice)
    if parallel_tool_calls is not None and not isinstance(parallel_tool_calls, bool):
        raise GrammarError(f"parallel_tool_calls: expected true or false, found {shown(parallel_tool_calls)}")
    known = {tool.name for tool in found}
    for name in names or ():
        if name not in known:
            raise GrammarError(f"tool_choice: expected a function of tools ({_some(known)}), found {shown(name)}")
    if mode == "required" and not found:
        raise GrammarError("tool_choice: expected tools to choose from, found none; send tools or tool_choice none")
    if mode == "none" or not found:
        return NO_TOOLS
    is_parallel = parallel_tool_calls is not False
    if names is None:
        return ToolUse(found, mode, None, is_parallel)
    if isinstance(tool_choice, Mapping) and tool_choice.get("type") == "allowed_tools":
        return ToolUse(tuple(tool for tool in found if tool.name in names), mode, None, is_parallel)
    return ToolUse(found, "required", names[0], parallel_tool_calls is True)  # a function that is named is called once


def _read_list(tools: object) -> tuple[Tool, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise GrammarError(f"tools: expected a list of functions, found {shown(tools)}")
    if len(tools) > MAX_TOOLS:
        raise GrammarError(f"tools: expected at most {MAX_TOOLS}, found {len(tools)}; send those that matter here")
    found: dict[str, Tool] = {}
    for index, value in enumerate(tools):
        tool = _read_tool(value, f"tools[{index}]")
        if tool.name in found:
            raise GrammarError(f"tools[{index}].function.name: expected names that differ, found {tool.name!r} twice")
        found[tool.name] = tool
    return tuple(found.values())


def _read_tool(value: object, where: str) -> Tool:
    if not isinstance(value, Mapping):
        raise GrammarError(f'{where}: expected {{"type": "function", "function": {{...}}}}, found {shown(value)}')
    kind = value.get("type")
    if kind not in (None, "function"):
        raise GrammarError(f"{where}.type: expected function, found {shown(kind)}; other tools are not run here")
    function = value.get("function")
    if function is None and "name" in value:
        function = value
    else:
        where = f"{where}.function"
    if not isinstance(function, Mapping):
        raise GrammarError(f"{where}: expected an object with name and parameters, found {shown(function)}")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise GrammarError(
            f"{where}.name: expected 1 to 64 letters, digits, dots, dashes or underscores, found {shown(name)}"
        )
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise GrammarError(f"{where}.description: expected text, found {shown(description)}")
    return Tool(name, description or "", _read_parameters(function.get("parameters"), where), f"{where}.parameters")


def _read_parameters(value: object, where: str) -> Mapping[str, object]:
    if value is None or value == {}:
        return NO_PARAMETERS
    if not isinstance(value, Mapping):
        raise GrammarError(f"{where}.parameters: expected a JSON schema, found {shown(value)}")
    kind = value.get("type", "object")
    if kind != "object":
        raise GrammarError(f'{where}.parameters.type: expected "object", found {shown(kind)}')
    return {"type": "object", **value}


def _read_choice(choice: object) -> tuple[Mode, list[str] | None]:
    """The mode, and the functions that are named; None where none is."""
    modes: dict[object, Mode] = {"auto": "auto", "none": "none", "any": "required", "required": "required"}
    if choice is None:
        return "auto", None
    if isinstance(choice, str) and choice in modes:
        return modes[choice], None
    if isinstance(choice, Mapping):
        if choice.get("type") == "allowed_tools":
            allowed = choice.get("allowed_tools")
            allowed = allowed if isinstance(allowed, Mapping) else {}
            names, mode = allowed.get("tools"), allowed.get("mode", "auto")
            if isinstance(names, Sequence) and mode in ("auto", "required"):
                return modes[mode], [_read_name(name) for name in names]
        else:
            return "required", [_read_name(choice)]
    raise GrammarError(
        "tool_choice: expected auto, none, any, required or "
        f'{{"type": "function", "function": {{"name": ...}}}}, found {shown(choice)}'
    )


def _read_name(value: object) -> str:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise GrammarError(f'tool_choice: expected {{"function": {{"name": ...}}}}, found {shown(value)}')
    return name


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "") if listed else "there are none"
