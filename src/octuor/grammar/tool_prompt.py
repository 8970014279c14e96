"""How a model without a tool format of its own is told of tools, and how earlier calls and results are written.

Mixtral-8x7B was not trained on tools. It is told in the system text what there is and how to call it, in the form
that later Mistral models use, written out as ordinary text:

    assistant  [TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]
    user       [TOOL_RESULTS] {"name": "f", "content": "2"} [/TOOL_RESULTS]

Calls are written exactly as the grammar makes the model write them, so that the text of an earlier answer is the
text the model produced then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from octuor.errors import GrammarError
from octuor.grammar.response_format import AnswerFormat
from octuor.grammar.tools import Tool, ToolUse
from octuor.grammar.wording import shown
from octuor.tokenizer import AnyMessage, Message, as_message

MARKER = "[TOOL_CALLS]"
RESULTS, END_RESULTS = "[TOOL_RESULTS]", "[/TOOL_RESULTS]"


def with_tools(messages: Sequence[AnyMessage], use: ToolUse) -> list[Message]:
    """A conversation in the roles that the chat format has: system, user and assistant.

    Call it for every chat request: earlier calls and results are written out whether tools may be called now or not.
    Messages without tools come back as they are.

    Raises GrammarError naming the message (counted from 0), TokenizerError as `as_message` does.
    """
    names: dict[str, str] = {}  # call id to function
    plain = [_plain(message, names, f"messages[{index}]") for index, message in enumerate(messages)]
    if use.mode == "none":
        return plain
    # after the system messages there are: the format joins them, and none may follow an assistant's
    n_before = next((index for index, message in enumerate(plain) if message.role != "system"), len(plain))
    return [*plain[:n_before], Message("system", tool_text(use)), *plain[n_before:]]


def tool_text(use: ToolUse) -> str:
    """The system text for tools: what there is, how to call it, and whether a call is wanted."""
    lines = ["You can call these functions. The parameters of each are given as a JSON schema."]
    lines += [_describe(tool) for tool in use.tools]
    example = f'{MARKER} [{{"name": "function name", "arguments": {{"parameter": "value"}}}}]'
    if use.only is not None:
        lines.append(f"Call {use.only} now. Answer only with the call, in this form:\n{example}")
    elif use.mode == "required":
        lines.append(f"Call a function now. Answer only with the call, in this form:\n{example}")
    else:
        lines.append(
            f"If a function helps to answer, answer only with the call, in this form:\n{example}\n"
            f"The results come between {RESULTS} and {END_RESULTS}. If no function is needed, answer in plain text."
        )
    if use.is_parallel:
        lines.append("Put several calls into the one list if you need several.")
    return "\n".join(lines)


def format_text(answer_format: AnswerFormat) -> str:
    """System text that tells the model a JSON schema its answer is held to; "" where there is nothing to tell.

    The grammar holds the form in any case. Told of it, the model knows what descriptions ask for, and is not cut off
    from what it would have said.
    """
    if answer_format.kind != "json_schema":
        return ""
    return f"Answer only with JSON that matches this JSON schema:\n{_dump(answer_format.schema)}"


def _describe(tool: Tool) -> str:
    described = {"description": tool.description} if tool.description else {}
    return "- " + _dump({"name": tool.name, **described, "parameters": tool.parameters})


def _plain(message: AnyMessage, names: dict[str, str], where: str) -> Message:
    if isinstance(message, Message) or not isinstance(message, Mapping):
        return as_message(message)
    calls = message.get("tool_calls")
    if message.get("role") == "assistant" and calls:
        return _plain_calls(message, calls, names, where)
    if message.get("role") != "tool":
        return as_message(message)
    content = as_message({"role": "user", "content": message.get("content")}).content
    call_id = message.get("tool_call_id")
    name = message.get("name") or names.get(str(call_id))
    result = {"name": name, "content": content} if isinstance(name, str) else {"content": content}
    return Message("user", f"{RESULTS} {_dump(result)} {END_RESULTS}")


def _plain_calls(message: Mapping[str, object], calls: object, names: dict[str, str], where: str) -> Message:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise GrammarError(f"{where}.tool_calls: expected a list of calls, found {shown(calls)}")
    written = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(name, str):
            raise GrammarError(
                f'{where}.tool_calls[{index}]: expected {{"id", "function": {{"name", "arguments"}}}}, '
                f"found {shown(call)}"
            )
        names[str(call.get("id"))] = name
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else _dump({} if arguments is None else arguments)
        written.append(f'{{"name": {_dump(name)}, "arguments": {text.strip() or "{}"}}}')
    content = as_message({"role": "assistant", "content": message.get("content")}).content
    before = f"{content}\n" if content and not content[-1].isspace() else content
    return Message("assistant", f"{before}{MARKER} [{', '.join(written)}]")


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
