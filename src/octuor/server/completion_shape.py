"""From events to `/v1/completions`: whole, or in events. Pure: no engine, no HTTP."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from octuor.engine.request import Event, Prefilled, Step, TokenInfo
from octuor.server.chat_shape import FINGERPRINT, Head
from octuor.server.schemas.common import Usage
from octuor.server.schemas.completions import Completion, CompletionChoice, CompletionLogprobs
from octuor.server.token_text import finite, label_of
from octuor.tokenizer import Tokenizer


class TokenTable:
    """The four lists of a text's tokens, as long as what was fed since they were last taken.

    strips  the first piece's blank is no part of the text
    """

    def __init__(self, tokenizer: Tokenizer, *, strips: bool) -> None:
        self._tokenizer = tokenizer
        self._strips = strips
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0
        self._rows: list[tuple[str, float | None, dict[str, float] | None, int]] = []

    def feed(self, token: TokenInfo) -> None:
        """One more token."""
        label, top = self._label(token.id), None
        if token.logprob is not None:
            top = {label: finite(token.logprob)}
            for token_id, logprob in token.top:  # of several that look the same the likeliest
                top.setdefault(self._label(token_id), finite(logprob))
        self._rows.append((label, None if token.logprob is None else finite(token.logprob), top, self._offset))
        piece = self._piece(token.id)
        self._offset += len(self._decoder.decode(piece))
        self._strips = self._strips and not piece

    def take(self) -> CompletionLogprobs:
        """The lists; new ones begin."""
        rows, self._rows = self._rows, []
        return {
            "tokens": [row[0] for row in rows],
            "token_logprobs": [row[1] for row in rows],
            "top_logprobs": [row[2] for row in rows],
            "text_offset": [row[3] for row in rows],
        }

    def _piece(self, token_id: int) -> bytes:
        piece = self._tokenizer.piece_bytes(token_id)
        return piece.removeprefix(b" ") if self._strips else piece

    def _label(self, token_id: int) -> str:
        return label_of(self._tokenizer, token_id, self._piece(token_id))


@dataclass
class _Choice:
    text: str = ""
    table: TokenTable | None = None
    reason: Literal["stop", "length"] | None = None


class CompletionShape:
    """The texts of one completion request in the making: n for each prompt, the first prompt's first.

    echoes    what each text begins with: a prompt, or "" where it is not repeated
    strips    of each prompt, whether the blank of its first piece is no part of what is repeated
    logprobs  tell them; with echo the prompt's too, which come with Prefilled
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        n: int,
        echoes: Sequence[str],
        strips: Sequence[bool],
        *,
        logprobs: bool,
        include_usage: bool,
    ) -> None:
        self._head = head
        self._n = n
        self._include_usage = include_usage
        self._choices = [
            _Choice(echo, TokenTable(tokenizer, strips=strip) if logprobs else None)
            for echo, strip in zip(echoes, strips, strict=True)
            for _ in range(n)
        ]
        self._last: CompletionChoice | None = None

    def add(self, place: int, event: Event) -> None:
        """Take in an event of the prompt in that place."""
        if isinstance(event, Prefilled):
            for choice in self._of_prompt(place):
                for token in event.prompt:
                    if choice.table is not None:
                        choice.table.feed(token)
        elif isinstance(event, Step):
            choice = self._choices[place * self._n + event.choice]
            choice.text += event.text
            if choice.table is not None and event.token is not None:
                choice.table.feed(event.token)
            if event.finish is not None:
                choice.reason = "length" if event.finish.reason == "length" else "stop"

    def events(self, place: int, event: Event) -> Iterator[Completion]:
        """What an event says, in a stream. The last finish_reason waits for `end`."""
        self.add(place, event)
        if not isinstance(event, Step):
            return
        index = place * self._n + event.choice
        choice = self._choices[index]
        if not choice.text and choice.reason is None:
            return  # a character or a stop string may still be completed
        shown = self._choice(index)
        choice.text = ""
        if all(other.reason is not None for other in self._choices):
            self._last = shown
        else:
            yield self._completion([shown])

    def end(self, usage: Usage) -> Iterator[Completion]:
        """The last events, once all texts have ended and are accounted for."""
        assert self._last is not None, "a text has not ended"
        last = self._completion([self._last])
        if self._include_usage:
            yield last
            yield {**self._completion([]), "usage": usage}
        else:
            yield {**last, "usage": usage}

    def whole(self, usage: Usage) -> Completion:
        """The answer, once all texts have ended."""
        return {**self._completion([self._choice(index) for index in range(len(self._choices))]), "usage": usage}

    def _of_prompt(self, place: int) -> list[_Choice]:
        return self._choices[place * self._n : (place + 1) * self._n]

    def _choice(self, index: int) -> CompletionChoice:
        choice = self._choices[index]
        return {
            "index": index,
            "text": choice.text,
            "logprobs": None if choice.table is None else choice.table.take(),
            "finish_reason": choice.reason,
        }

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        completion: Completion = {
            "id": self._head.id,
            "object": "text_completion",
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }
        if self._include_usage:
            completion["usage"] = None
        return completion
