"""Answers held to a JSON schema, a regular expression or a tool call.

A server reads `response_format` and the tools of a request (`read_response_format`, `read_tools`), writes the tools
into the conversation (`with_tools`), compiles both into the grammar of the answer (`GrammarCompiler.compile`) and
reads calls out of the answer's text (`ToolParser`, `read_answer`).
"""

from octuor.grammar.compiler import CompiledGrammar, GrammarCompiler, GrammarMatcher
from octuor.grammar.response_format import TEXT, AnswerFormat, read_response_format, read_tgi_grammar
from octuor.grammar.tool_parser import ToolCall, ToolDelta, ToolParser, read_answer
from octuor.grammar.tool_prompt import format_text, with_tools
from octuor.grammar.tools import NO_TOOLS, Tool, ToolUse, read_tools

__all__ = [
    "NO_TOOLS",
    "TEXT",
    "AnswerFormat",
    "CompiledGrammar",
    "GrammarCompiler",
    "GrammarMatcher",
    "Tool",
    "ToolCall",
    "ToolDelta",
    "ToolParser",
    "ToolUse",
    "format_text",
    "read_answer",
    "read_response_format",
    "read_tgi_grammar",
    "read_tools",
    "with_tools",
]
