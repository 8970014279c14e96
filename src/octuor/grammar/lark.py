"""The text of grammars in llguidance's Lark dialect. Pure text: nothing is compiled here.

    start: TEXT | call_head calls            an answer that may call tools, with the format's rules in TEXT's place
    calls: " [" call (", " call)* "]"
    call0: "{\\"name\\": \\"f\\", \\"arguments\\": " arguments0 "}"
    arguments0: %json {...}

The punctuation around calls is fixed, so that calls written into a later prompt are the text that was generated;
inside a JSON value one blank may follow a comma or a colon, which models write either way, and none elsewhere: weak
models write blanks to the end where they may.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from octuor.grammar.patterns import to_rust
from octuor.grammar.response_format import AnswerFormat
from octuor.grammar.schema import prepare_schema
from octuor.grammar.tool_prompt import MARKER
from octuor.grammar.tools import Tool, ToolUse

MAX_CALLS = 16  # in one answer: weak models would call for ever

# Masks hold every id that may come next, not only the one that spells forced text in the shortest way: which that is
# depends on blanks around it.
_OPTIONS = '%llguidance {"no_forcing": true}'
# Names that an object leaves free must not be spelled with \\u escapes, or "\\u0061" would be a second "a".
_JSON = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": 'nrbtf\\"',
}


@dataclass(frozen=True)
class GrammarText:
    """A grammar to compile. fields: line (from 1) to the request's field that is written there, for messages."""

    text: str
    fields: dict[int, str]


def answer_grammar(answer_format: AnswerFormat, use: ToolUse, *, is_chat: bool) -> GrammarText:
    """The grammar of an answer in a format, of tool calls, or of one of the two.

    is_chat  one blank before the answer is allowed: chat text loses it, and models begin so

    Raises GrammarError for schemas and expressions that cannot be held.
    """
    lines = _Lines()
    starts = []
    if use.mode != "required":
        starts.append("answer")
        _add_format(lines, answer_format, is_chat=is_chat)
    if use.mode != "none":
        starts.append("call_head calls")
        may_talk = use.mode == "auto" and answer_format.kind == "text"
        # lazy: it ends where the marker ends
        lines.add(f"call_head[lazy]: /(?s:.*){_in_regex(MARKER)}/" if may_talk else f'call_head: " "? "{MARKER}"')
        _add_calls(lines, use)
    lines.add(f"start: {' | '.join(starts)}")
    return GrammarText("\n".join(lines.lines), lines.fields)


class _Lines:
    def __init__(self) -> None:
        self.lines = [_OPTIONS]
        self.fields: dict[int, str] = {}

    def add(self, line: str, field: str | None = None) -> None:
        self.lines.append(line)
        if field is not None:
            self.fields[len(self.lines)] = field


def _add_format(lines: _Lines, answer_format: AnswerFormat, *, is_chat: bool) -> None:
    if answer_format.kind == "text":
        lines.add("TEXT: /(?s:.*)/")
        lines.add("answer: TEXT")
    elif answer_format.kind == "regex":
        pattern = _regex(to_rust(answer_format.pattern, answer_format.field))
        lines.add(f"PATTERN: /{pattern}/", answer_format.field)
        # With a blank before it, or without one where the pattern itself does not begin with a blank: what is left
        # when chat text loses its first blank always matches.
        lines.add('ANSWER: " " PATTERN | PATTERN & /([^ ](?s:.*))?/' if is_chat else "ANSWER: PATTERN")
        lines.add("answer: ANSWER")
    else:
        given = {"type": "object"} if answer_format.schema is None else answer_format.schema
        lines.add('answer: " "? json' if is_chat else "answer: json")
        lines.add(f"json: {_inline(prepare_schema(given, answer_format.field))}", answer_format.field)


def _add_calls(lines: _Lines, use: ToolUse) -> None:
    tools = use.callable_tools
    more = f'(", " call){{0,{MAX_CALLS - 1}}} ' if use.is_parallel else ""
    lines.add(f'calls: " [" call {more}"]"')
    lines.add(f"call: {' | '.join(f'call{index}' for index in range(len(tools)))}")
    for index, tool in enumerate(tools):
        _add_call(lines, index, tool)


def _add_call(lines: _Lines, index: int, tool: Tool) -> None:
    head = json.dumps(f'{{"name": "{tool.name}", "arguments": ')
    lines.add(f'call{index}: {head} arguments{index} "}}"')
    lines.add(f"arguments{index}: {_inline(prepare_schema(tool.parameters, tool.field))}", tool.field)


def _inline(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _JSON})


def _regex(pattern: str) -> str:
    """A regular expression between the slashes of a Lark terminal."""
    from llguidance import regex_to_lark

    return regex_to_lark(pattern, "d")


def _in_regex(text: str) -> str:
    return "".join(f"\\{char}" if char in "[]" else char for char in text)
