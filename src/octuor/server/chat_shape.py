"""From events to a chat's answer: whole, or in chunks. Pure: no engine, no HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from octuor import __version__
from octuor.engine.request import Job, Step, TokenInfo
from octuor.grammar import ToolCall, ToolDelta, ToolParser
from octuor.server.schemas.chat_answers import (
    CalledTool,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    PromptLogprob,
    Reason,
    TokenLogprob,
    TopLogprob,
)
from octuor.server.schemas.common import Usage
from octuor.server.token_text import finite, label_of, rank_in_top
from octuor.tokenizer import Tokenizer

FINGERPRINT = f"octuor-{__version__}"


@dataclass(frozen=True)
class Head:
    """What every chunk of an answer repeats.

    model  the name that was asked for
    kind   what ids begin with
    """

    model: str
    kind: str = "chatcmpl"
    unique: str = field(default_factory=lambda: secrets.token_hex(16))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """Of the answer."""
        return f"{self.kind}-{self.unique}"


def usage_of(jobs: Sequence[Job]) -> Usage:
    """What requests took together."""
    n_prompt = sum(job.prompt_tokens for job in jobs)
    n_completion = sum(job.completion_tokens for job in jobs)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(job.cached_tokens for job in jobs)},
    }


class Voice:
    """The log-probabilities of one choice's tokens, let go when their text is out.

    strips  the first piece's blank is no part of the text
    """

    def __init__(self, tokenizer: Tokenizer, *, strips: bool) -> None:
        self._tokenizer = tokenizer
        self._strips = strips
        self._held: list[tuple[int, TokenLogprob]] = []  # where in the text's bytes a token begins
        self._n_bytes = self._n_shown = 0

    def feed(self, step: Step) -> list[TokenLogprob]:
        """Take in a step; of those that were held back too, the tokens whose text is out now."""
        finish = step.finish
        is_end = finish is not None and finish.reason == "stop" and finish.stop is None
        if step.token is not None and step.token.logprob is not None and not is_end:
            self._hold(step.token)
        self._n_shown += len(step.text.encode("utf-8"))
        if finish is not None and finish.stop is None:
            out, self._held = [entry for _, entry in self._held], []
        else:  # text that waits has its tokens wait; a stop string's own are never shown
            out = [entry for start, entry in self._held if start < self._n_shown]
            self._held = [] if finish is not None else self._held[len(out) :]
        return out

    def _hold(self, token: TokenInfo) -> None:
        entry: TokenLogprob = {
            **self._entry(token.id, token.logprob),
            "top_logprobs": [self._entry(token_id, logprob) for token_id, logprob in token.top],
        }
        self._held.append((self._n_bytes, entry))
        self._n_bytes += len(entry["bytes"])
        self._strips = self._strips and not entry["bytes"]

    def _entry(self, token_id: int, logprob: float | None) -> TopLogprob:
        piece = self._tokenizer.piece_bytes(token_id)
        if self._strips:
            piece = piece.removeprefix(b" ")
        label = label_of(self._tokenizer, token_id, piece)
        return {"token": label, "token_id": token_id, "logprob": finite(logprob), "bytes": list(piece)}


class Answer:
    """One choice as far as it has come. Text, calls and log-probabilities are taken once.

    voice  None: log-probabilities are not wanted
    """

    def __init__(self, voice: Voice | None, parser: ToolParser, prefix: str) -> None:
        self._voice = voice
        self._parser = parser
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._entries: list[TokenLogprob] = []
        self.has_begun = False  # its first chunk has been sent
        self.reason: Reason | None = None
        self._read(parser.push(prefix))

    def feed(self, step: Step) -> None:
        """Take in a step."""
        if self._voice is not None:
            self._entries += self._voice.feed(step)
        self._read(self._parser.push(step.text))
        if step.finish is not None:
            self._read(self._parser.finish())
            if step.finish.reason == "length":
                self.reason = "length"
            else:  # clients of 2023 know no other words than these three
                self.reason = "tool_calls" if self._parser.has_calls else "stop"

    def take_text(self) -> str:
        """What it says and was not taken before."""
        texts, self._texts = self._texts, []
        return "".join(texts)

    def take_calls(self) -> list[ToolCall]:
        """Calls that are whole and were not taken before."""
        calls, self._calls = self._calls, []
        return calls

    def take_entries(self) -> list[TokenLogprob]:
        """Tokens that were not taken before."""
        entries, self._entries = self._entries, []
        return entries

    def _read(self, delta: ToolDelta) -> None:
        self._texts.append(delta.content)
        self._calls += delta.calls


class ChatShape:
    """The answers to one chat request in the making. Feed it steps, as chunks or for the whole.

    parsers        one for each answer, which finds tool calls in its text
    prefix         what the answers begin with, before any step
    include_usage  usage comes in a chunk of its own, as OpenAI has it; else with the last finish_reason
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        parsers: Sequence[ToolParser],
        *,
        prefix: str,
        logprobs: bool,
        include_usage: bool,
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._has_logprobs = logprobs
        self._include_usage = include_usage
        self._answers = [
            Answer(Voice(tokenizer, strips=not prefix) if logprobs else None, parser, prefix) for parser in parsers
        ]
        self._last: ChunkChoice | None = None
        self.prompt: Sequence[TokenInfo] = ()

    def add(self, step: Step) -> None:
        """Take in a step for the whole answer."""
        self._answers[step.choice].feed(step)

    def whole(self, usage: Usage) -> ChatCompletion:
        """The answer, once all choices have ended."""
        answer: ChatCompletion = {
            "id": self._head.id,
            "object": "chat.completion",
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [self._choice(index, answer) for index, answer in enumerate(self._answers)],
            "usage": usage,
        }
        if self.prompt:
            answer["prompt_logprobs"] = prompt_logprobs(self._tokenizer, self.prompt)
        return answer

    def chunks(self, step: Step) -> Iterator[ChatChunk]:
        """What a step says. The last finish_reason waits for `end`."""
        index, answer = step.choice, self._answers[step.choice]
        if not answer.has_begun:
            answer.has_begun = True
            yield self._chunk(self._chunk_choice(index, {"role": "assistant", "content": answer.take_text()}))
        answer.feed(step)
        text, calls, entries = answer.take_text(), answer.take_calls(), answer.take_entries()
        if text or entries:
            yield self._chunk(self._chunk_choice(index, {"content": text}, entries))
        for call in calls:
            yield self._chunk(self._chunk_choice(index, {"content": "", "tool_calls": [called(call)]}))
        if answer.reason is not None:
            final = self._chunk_choice(index, {"content": ""}, reason=answer.reason)
            if all(other.reason is not None for other in self._answers):
                self._last = final
            else:
                yield self._chunk(final)

    def end(self, usage: Usage) -> Iterator[ChatChunk]:
        """The last chunks, once all choices have ended and are accounted for."""
        assert self._last is not None, "a choice has not ended"
        last = self._chunk(self._last)
        if self._include_usage:
            yield last
            yield {**self._chunk(), "usage": usage}
        else:
            yield {**last, "usage": usage}

    def _choice(self, index: int, answer: Answer) -> Choice:
        assert answer.reason is not None, "a choice has not ended"
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": answer.take_text(),
                "tool_calls": [called(call) for call in answer.take_calls()] or None,
            },
            "logprobs": self._logprobs(answer.take_entries()),
            "finish_reason": answer.reason,
        }

    def _chunk(self, *choices: ChunkChoice) -> ChatChunk:
        chunk: ChatChunk = {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": list(choices),
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _chunk_choice(
        self, index: int, delta: Delta, entries: list[TokenLogprob] | None = None, reason: Reason | None = None
    ) -> ChunkChoice:
        return {
            "index": index,
            "delta": delta,
            "logprobs": None if entries is None else self._logprobs(entries),
            "finish_reason": reason,
        }

    def _logprobs(self, entries: list[TokenLogprob]) -> ChoiceLogprobs | None:
        return {"content": entries, "refusal": None} if self._has_logprobs else None


def called(call: ToolCall) -> CalledTool:
    """A call as clients read it: whole, its arguments in a string."""
    return {
        "id": call.id,
        "type": "function",
        "index": call.index,
        "function": {"name": call.name, "arguments": call.arguments},
    }


def prompt_logprobs(tokenizer: Tokenizer, prompt: Sequence[TokenInfo]) -> list[dict[str, PromptLogprob] | None]:
    """A prompt's tokens as vLLM tells them: of each the alternatives and itself, by id."""

    def name(token_id: int) -> str:
        return label_of(tokenizer, token_id, tokenizer.piece_bytes(token_id))

    found: list[dict[str, PromptLogprob] | None] = []
    for token in prompt:
        if token.logprob is None:
            found.append(None)
            continue
        entries: dict[str, PromptLogprob] = {
            str(token_id): {"logprob": finite(logprob), "rank": rank, "decoded_token": name(token_id)}
            for rank, (token_id, logprob) in enumerate(token.top, start=1)
        }
        own: PromptLogprob = {
            "logprob": finite(token.logprob),
            "rank": rank_in_top(token),
            "decoded_token": name(token.id),
        }
        entries.setdefault(str(token.id), own)
        found.append(entries)
    return found
