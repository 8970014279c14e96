"""Rows of JSON Lines in the shapes that data comes in: talks, texts, preferences.

{"messages": [{"role", "content"}, ...]}                    a talk
{"conversations": [{"from": "human", "value"}, ...]}        a talk, as ShareGPT has them
{"instruction", "input"?, "output", "system"?}              a talk of one answer, as Alpaca has them
{"prompt", "completion"}                                    the same; prompt: text, or messages
{"prompt"?, "chosen", "rejected"}                           a preference; all three text or messages, and where
                                                            prompt is not given, what both begin with
{"text"}                                                    a text, all of it learned
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octuor.errors import CheckpointError, TokenizerError
from octuor.tokenizer import Message
from octuor.tokenizer.instruct import as_message
from octuor.train.data import open_text

_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip


@dataclass(frozen=True)
class Talk:
    """A conversation whose answers are learned; where: FILE:LINE."""

    where: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Text:
    """A text that is learned whole."""

    where: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A conversation that waits for an answer, a better and a worse one."""

    where: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


Row = Talk | Text | Pair


@dataclass(frozen=True)
class Problem:
    """A row that cannot be learned from, and why."""

    where: str
    what: str


class _Wrong(Exception):
    """What is wrong with a row; turned into a Problem."""


def read_file(path: Path) -> tuple[list[Row], list[Problem]]:
    """All rows of a .jsonl or .jsonl.xz file, and what stands in it that is no row.

    Raises CheckpointError where the file cannot be read.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path.name}:{number}"
                if not line.strip():
                    continue
                try:
                    rows.append(_row(where, line))
                except (_Wrong, TokenizerError) as error:
                    problems.append(Problem(where, str(error)))
    except OSError as error:
        raise CheckpointError(f"{path}: expected JSON Lines, cannot be read ({error.strerror})") from error
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected whole UTF-8 text ({error}); fetch the file again") from error
    return rows, problems


def _row(where: str, line: str) -> Row:
    try:
        data = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Wrong(f"expected one JSON object a line ({error})") from error
    if not isinstance(data, dict):
        raise _Wrong(f"expected a JSON object, found {line.strip()[:60]}")
    for keys, make in _SHAPES:
        if keys <= data.keys():
            return make(where, data)
    raise _Wrong(
        "expected messages, conversations, instruction and output, prompt and completion, chosen and rejected, or "
        f"text; found {', '.join(sorted(data)) or 'nothing'}"
    )


def _messages(where: str, data: Mapping[str, Any]) -> Talk:
    return Talk(where, _talk(data["messages"], "messages"))


def _conversations(where: str, data: Mapping[str, Any]) -> Talk:
    turns = data["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _Wrong('expected conversations as a list of {"from", "value"}')
    messages = [_shared(turn) for turn in turns]
    if isinstance(data.get("system"), str) and data["system"]:
        messages.insert(0, Message("system", data["system"]))
    return Talk(where, tuple(messages))


def _shared(turn: Mapping[str, Any]) -> Message:
    speaker = turn.get("from", turn.get("role"))
    if speaker not in _SPEAKERS:
        raise _Wrong(f"expected from: {', '.join(sorted(_SPEAKERS))}; found {speaker!r}")
    return Message(_SPEAKERS[speaker], _text(turn, "value" if "value" in turn else "content"))


def _instruction(where: str, data: Mapping[str, Any]) -> Talk:
    asked = [_text(data, "instruction")]
    if data.get("input"):
        asked.append(_text(data, "input"))
    messages = [Message("user", "\n\n".join(asked)), Message("assistant", _text(data, "output"))]
    if data.get("system"):
        messages.insert(0, Message("system", _text(data, "system")))
    return Talk(where, tuple(messages))


def _completion(where: str, data: Mapping[str, Any]) -> Talk:
    answer = _answer(data["completion"], "completion")
    return Talk(where, (*_prompt(data["prompt"]), Message("assistant", answer)))


def _pair(where: str, data: Mapping[str, Any]) -> Pair:
    if "prompt" in data:
        prompt = _prompt(data["prompt"])
        return Pair(where, prompt, _answer(data["chosen"], "chosen"), _answer(data["rejected"], "rejected"))
    chosen, rejected = (_talk(data[key], key) for key in ("chosen", "rejected"))
    shared = next((n for n, both in enumerate(zip(chosen, rejected, strict=False)) if both[0] != both[1]), 0)
    ends = {len(chosen), len(rejected)}
    if ends != {shared + 1} or not shared:
        raise _Wrong("expected chosen and rejected to differ in their last message alone; give the prompt apart")
    return Pair(where, chosen[:shared], _answer([chosen[-1]], "chosen"), _answer([rejected[-1]], "rejected"))


def _document(where: str, data: Mapping[str, Any]) -> Text:
    return Text(where, _text(data, "text"))


def _prompt(value: Any) -> tuple[Message, ...]:
    return (Message("user", value),) if isinstance(value, str) else _talk(value, "prompt")


def _answer(value: Any, key: str) -> str:
    """Text, or a list of one message of the assistant's."""
    if isinstance(value, str):
        return value
    messages = _talk(value, key)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise _Wrong(f"expected {key} as text or one message of the assistant's, found {len(messages)} messages")
    return messages[0].content


def _talk(value: Any, key: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"expected {key} as a list of messages, found {type(value).__name__}")
    return tuple(as_message(message) for message in value)


def _text(data: Mapping[str, Any], key: str) -> str:
    if not isinstance(data.get(key), str):
        raise _Wrong(f"expected {key} as text, found {type(data.get(key)).__name__}")
    return str(data[key])


_SHAPES: tuple[tuple[set[str], Callable[[str, Mapping[str, Any]], Row]], ...] = (
    ({"messages"}, _messages),
    ({"conversations"}, _conversations),
    ({"chosen", "rejected"}, _pair),
    ({"instruction", "output"}, _instruction),
    ({"prompt", "completion"}, _completion),
    ({"text"}, _document),
)
