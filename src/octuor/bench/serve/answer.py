"""From the bytes of an exchange to an answer: server-sent events with the time of each. Runs when the row is over.

An event's time is that of the bytes that completed it; several that came in one piece have one time, which is what a
program that reads them sees.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from octuor.bench.serve.exchange import Exchange

LINE_END = re.compile(rb"\r\n|\n|\r")
EVENT_STREAM = "text/event-stream"
DETAIL = 200  # characters of a server's message that are kept


@dataclass(frozen=True)
class Answer:
    """What one request came to. Times are seconds of the exchange's clock.

    text_s        when each piece of text came
    tokens        of the answer: the server's count where is_counted, else its pieces of text
    prompt_tokens, planned_tokens  of the prompt: the server's count, else ours; and ours. None: not known
    cached        prompt tokens that the server had in its cache; None: it does not say
    error         "" or its kind: "HTTP 429", "timeout", …; its text_s and tokens are what came before it
    """

    sent_s: float
    ended_s: float
    text_s: tuple[float, ...] = ()
    tokens: int = 0
    is_counted: bool = False
    prompt_tokens: int | None = None
    planned_tokens: int | None = None
    cached: int | None = None
    finish_reason: str | None = None
    error: str = ""
    detail: str = ""
    is_cancelled: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end."""
        return not self.error and not self.is_cancelled

    @property
    def first_token_s(self) -> float | None:
        """From sending to the first text; None without text."""
        return self.text_s[0] - self.sent_s if self.text_s else None

    @property
    def gaps_s(self) -> list[float]:
        """Between pieces of text that follow each other."""
        return [after - before for before, after in zip(self.text_s, self.text_s[1:], strict=False)]

    @property
    def per_token_s(self) -> float | None:
        """Of tokens after the first, mean; None where there are none."""
        if self.tokens < 2 or len(self.text_s) < 2:
            return None
        return (self.text_s[-1] - self.text_s[0]) / (self.tokens - 1)


def events(times: Sequence[float], chunks: Sequence[bytes]) -> Iterator[tuple[float, bytes]]:
    """The data of each server-sent event with the time at which it was complete; comments and other fields are dropped.

    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
    """
    rest, after_cr = b"", False
    data: list[bytes] = []
    for at, chunk in zip(times, chunks, strict=True):
        if not chunk:
            continue
        if after_cr and chunk[:1] == b"\n":  # the other half of a line end that was cut
            chunk = chunk[1:]
        after_cr = chunk[-1:] == b"\r"
        *lines, rest = LINE_END.split(rest + chunk)
        for line in lines:
            if not line:
                if data:
                    yield at, b"\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))


def read_answer(exchange: Exchange) -> Answer:
    """What the exchange came to; whatever the server sent, this raises nothing."""
    reader = _Reader(exchange)
    reader.read()
    return reader.answer()


class _Reader:
    """One exchange as it is read, event by event."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._text_s: list[float] = []
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None
        self._is_done = False
        self._error, self._detail = exchange.failure, exchange.detail

    def read(self) -> None:
        exchange = self._exchange
        if exchange.status not in (0, 200):
            self._fail(f"HTTP {exchange.status}", _message(b"".join(exchange.chunks)))
            return
        if exchange.status == 200 and not exchange.content_type.startswith(EVENT_STREAM):
            self._fail("not a stream", exchange.content_type + " " + _start(b"".join(exchange.chunks)))
            return
        for at, data in events(exchange.times, exchange.chunks):
            self._event(at, data)
        if not self._is_done and self._finish_reason is None and not exchange.is_cancelled:
            self._fail("broken stream", "ended without a finish_reason")

    def _event(self, at: float, data: bytes) -> None:
        if data == b"[DONE]":
            self._is_done = True
            return
        try:
            found = json.loads(data)
        except ValueError:
            self._fail("not JSON", _start(data))
            return
        if not isinstance(found, dict) or found.get("error"):
            self._fail("error event", _message(data))
            return
        self._usage = _object(found.get("usage")) or self._usage
        choices = found.get("choices")
        for choice in map(_object, choices if isinstance(choices, list) else []):
            if _has_text(choice):
                self._text_s.append(at)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _fail(self, error: str, detail: str) -> None:
        if not self._error:  # what came first is the cause
            self._error, self._detail = error, detail[:DETAIL]

    def answer(self) -> Answer:
        exchange, usage = self._exchange, self._usage
        tokens = _count(usage.get("completion_tokens"))
        prompt_tokens, planned = _count(usage.get("prompt_tokens")), exchange.call.prompt_tokens
        return Answer(
            exchange.sent_s,
            exchange.ended_s,
            tuple(self._text_s),
            len(self._text_s) if tokens is None else tokens,
            tokens is not None,
            planned if prompt_tokens is None else prompt_tokens,
            planned,
            _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
            self._finish_reason,
            "" if exchange.is_cancelled else self._error,
            "" if exchange.is_cancelled else self._detail,
            exchange.is_cancelled,
        )


def _has_text(choice: dict[str, Any]) -> bool:
    """In any of the places where servers put what a model says: a chat's, a reasoner's, a tool call, a completion's."""
    delta = _object(choice.get("delta"))
    said = (delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls"))
    return bool(choice.get("text")) or any(said)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _message(body: bytes) -> str:
    """The words of an error body, in whichever of the usual places."""
    try:
        found = json.loads(body)
    except ValueError:
        return _start(body)
    if isinstance(found, dict):
        error = found.get("error")
        for text in (_object(error).get("message"), error, found.get("message"), found.get("detail")):
            if isinstance(text, str) and text:
                return text
    return _start(body)


def _start(body: bytes) -> str:
    return " ".join(body[: 2 * DETAIL].decode("utf-8", errors="replace").split())
