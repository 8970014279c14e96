"""Tool calls out of the text of an answer, whole or as it comes.

The answer is one that the grammar of `answers` allows: text, or text and then the marker and a list of calls, whose
punctuation is always the same.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass
from hashlib import blake2b

from octuor.errors import GrammarError
from octuor.grammar.tool_prompt import MARKER
from octuor.grammar.tools import ToolUse
from octuor.grammar.wording import shown

_CALL = re.compile(r'\{"name": "([^"\\]+)", "arguments": (.*)\}', re.DOTALL)
_ID_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # what Mistral's clients and templates take


@dataclass(frozen=True)
class ToolCall:
    """One call. index counts from 0 in its answer; arguments is JSON text, as the model wrote it."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolDelta:
    """What some more text of an answer adds: content, then whole calls."""

    content: str = ""
    calls: tuple[ToolCall, ...] = ()


class ToolParser:
    """Reads one answer as it comes. All deltas joined are the same however the text is cut.

    seed    of the request: it decides the calls' ids; None draws random ones
    choice  which answer to the request
    turn    any number that differs between the turns of a conversation (how many messages it has), so that ids do
            not come again in the next turn under the same seed
    """

    def __init__(self, use: ToolUse, *, seed: int | None = None, choice: int = 0, turn: int = 0) -> None:
        self._has_tools = use.mode != "none"
        self._key = secrets.token_bytes(16) if seed is None else f"{seed}/{choice}/{turn}".encode()
        self._n_calls = 0
        self._is_in_calls = False
        self._has_content = False
        self._pending = ""
        self._scanner = _ObjectScanner()

    @property
    def has_calls(self) -> bool:
        """Whether a call has come: the answer's finish_reason is then tool_calls."""
        return self._n_calls > 0

    def push(self, text: str) -> ToolDelta:
        """What is certain after some more text: content that cannot be the marker's beginning, calls that are whole.

        Raises GrammarError if text is not what the grammar allows.
        """
        if not self._has_tools:
            return ToolDelta(text)
        content = ""
        if not self._is_in_calls:
            content, text = self._split(self._pending + text)
            if not self._is_in_calls:
                return ToolDelta(content)
        return ToolDelta(content, tuple(self._read_call(call) for call in self._scanner.push(text)))

    def finish(self) -> ToolDelta:
        """The rest of an answer that has ended: content held back. A call that was cut off is dropped."""
        held = "" if self._is_in_calls else self._pending
        self._pending = ""
        return ToolDelta(held)

    def _split(self, text: str) -> tuple[str, str]:
        """Content that is certain and, once the marker has come, what follows it."""
        before, marker, after = text.partition(MARKER)
        if marker:
            self._is_in_calls, self._pending = True, ""
            return (before if self._has_content or before.strip() else ""), after
        n_held = next((n for n in range(len(MARKER) - 1, 0, -1) if text.endswith(MARKER[:n])), 0)
        if not self._has_content and not text[: len(text) - n_held].strip():
            n_held = len(text)  # blanks before a call are not content
        self._pending = text[len(text) - n_held :]
        content = text[: len(text) - n_held]
        self._has_content = self._has_content or bool(content)
        return content, ""

    def _read_call(self, text: str) -> ToolCall:
        found = _CALL.fullmatch(text)
        if found is None:
            raise GrammarError(f"answer: expected a tool call, found {shown(text)}; was the grammar applied to it?")
        index = self._n_calls
        self._n_calls += 1
        return ToolCall(index, self._make_id(index), found[1], found[2])

    def _make_id(self, index: int) -> str:
        digest = blake2b(index.to_bytes(4, "little"), key=self._key[:64], digest_size=16).digest()
        number = int.from_bytes(digest, "little")
        letters = []
        for _ in range(_ID_LENGTH):
            number, digit = divmod(number, len(_ID_LETTERS))
            letters.append(_ID_LETTERS[digit])
        return "".join(letters)


def read_answer(
    text: str, use: ToolUse, *, seed: int | None = None, choice: int = 0, turn: int = 0
) -> tuple[str, tuple[ToolCall, ...]]:
    """Content and calls of a whole answer; the parameters are `ToolParser`'s."""
    parser = ToolParser(use, seed=seed, choice=choice, turn=turn)
    delta = parser.push(text)
    return delta.content + parser.finish().content, delta.calls


class _ObjectScanner:
    """Cuts the objects out of a JSON list as it comes; each character is looked at once."""

    def __init__(self) -> None:
        self._parts: list[str] = []  # of the object that has begun
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def push(self, text: str) -> list[str]:
        """The objects that are whole now."""
        whole = []
        start = 0  # of the current object's part of text
        for at, char in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = self._depth > 0
            elif char == "{":
                if not self._depth:
                    start = at
                self._depth += 1
            elif char == "}" and self._depth:
                self._depth -= 1
                if not self._depth:
                    whole.append("".join([*self._parts, text[start : at + 1]]))
                    self._parts = []
        if self._depth:
            self._parts.append(text[start:])
        return whole
