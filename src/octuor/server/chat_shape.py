"""From events to a chat's answer: whole, or in chunks. Pure: no engine, no HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from octuor import __version__
from octuor.engine.request import Finish, Job, Step, TokenInfo
from octuor.server.schemas.chat_answers import (
    ChatChunk,
    ChatCompletion,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    PromptLogprob,
    Reason,
    TokenLogprob,
    TopLogprob,
)
from octuor.server.schemas.common import Usage
from octuor.server.token_text import finite, label_of, rank_in_top, text_of
from octuor.tokenizer import Tokenizer

FINGERPRINT = f"octuor-{__version__}"


@dataclass(frozen=True)
class Head:
    """What every chunk of an answer repeats. model: the name that was asked for."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))


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


@dataclass(frozen=True)
class Part:
    """What a step adds to its choice. logprobs: of tokens whose text is out now, with what was held back before."""

    text: str
    logprobs: list[TokenLogprob]
    finish: Finish | None


class Voice:
    """One choice: its text and its tokens' log-probabilities, kept together.

    strips  the first piece's blank is no part of the text
    """

    def __init__(self, tokenizer: Tokenizer, *, strips: bool) -> None:
        self._tokenizer = tokenizer
        self._strips = strips
        self._held: list[tuple[int, TokenLogprob]] = []  # where in the text's bytes a token begins
        self._n_bytes = self._n_shown = 0

    def feed(self, step: Step) -> Part:
        """Take in a step."""
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
        return Part(step.text, out, finish)

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
        is_control = self._tokenizer.is_control(token_id)
        if self._strips:
            piece = piece.removeprefix(b" ")
        label = label_of(self._tokenizer, token_id) if is_control else text_of(piece)
        return {"token": label, "token_id": token_id, "logprob": finite(logprob), "bytes": list(piece)}


class ChatShape:
    """The answers to one chat request in the making. Feed it steps, as chunks or for the whole.

    prefix         what the answers begin with, before any step
    include_usage  usage comes in a chunk of its own, as OpenAI has it; else with the last finish_reason
    """

    def __init__(
        self, head: Head, tokenizer: Tokenizer, n: int, *, prefix: str, logprobs: bool, include_usage: bool
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._voices = [Voice(tokenizer, strips=not prefix) for _ in range(n)]
        self._texts = [prefix] * n
        self._entries: list[list[TokenLogprob]] = [[] for _ in range(n)]
        self._reasons: list[Reason | None] = [None] * n
        self._begun = [False] * n
        self._last: ChunkChoice | None = None
        self.prompt: Sequence[TokenInfo] = ()

    # ---- in chunks -------------------------------------------------------------------------------

    def chunks(self, step: Step) -> Iterator[ChatChunk]:
        """What a step says. The last finish_reason waits for `end`."""
        part = self._voices[step.choice].feed(step)
        if not self._begun[step.choice]:
            self._begun[step.choice] = True
            yield self._chunk(self._choice(step.choice, {"role": "assistant", "content": self._prefix}))
        if part.text or part.logprobs:
            yield self._chunk(self._choice(step.choice, {"content": part.text}, part.logprobs))
        if part.finish is not None:
            self._reasons[step.choice] = reason_of(part.finish)
            final = self._choice(step.choice, {"content": ""})
            if None in self._reasons:
                yield self._chunk(final)
            else:
                self._last = final

    def end(self, usage: Usage) -> Iterator[ChatChunk]:
        """The last chunks, once all choices have ended and are accounted for."""
        assert self._last is not None, "a choice has not ended"
        last = self._chunk(self._last)
        if self._include_usage:
            yield last
            yield {**self._chunk(), "usage": usage}
        else:
            yield {**last, "usage": usage}

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

    def _choice(self, index: int, delta: Delta, entries: list[TokenLogprob] | None = None) -> ChunkChoice:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._shown(entries) if entries is not None else None,
            "finish_reason": self._reasons[index],
        }

    # ---- whole -----------------------------------------------------------------------------------

    def add(self, step: Step) -> None:
        """Take in a step for the whole answer."""
        part = self._voices[step.choice].feed(step)
        self._texts[step.choice] += part.text
        self._entries[step.choice] += part.logprobs
        if part.finish is not None:
            self._reasons[step.choice] = reason_of(part.finish)

    def whole(self, usage: Usage) -> ChatCompletion:
        """The answer, once all choices have ended."""
        answer: ChatCompletion = {
            "id": self._head.id,
            "object": "chat.completion",
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text, "tool_calls": None},
                    "logprobs": self._shown(entries),
                    "finish_reason": reason or "stop",
                }
                for index, (text, entries, reason) in enumerate(
                    zip(self._texts, self._entries, self._reasons, strict=True)
                )
            ],
            "usage": usage,
        }
        if self.prompt:
            answer["prompt_logprobs"] = prompt_logprobs(self._tokenizer, self.prompt)
        return answer

    def _shown(self, entries: list[TokenLogprob]) -> ChoiceLogprobs | None:
        return {"content": entries, "refusal": None} if self._logprobs else None


def reason_of(finish: Finish) -> Reason:
    """The word of `/v1` for why an answer ended; old clients know no other words."""
    return "length" if finish.reason == "length" else "stop"


def prompt_logprobs(tokenizer: Tokenizer, prompt: Sequence[TokenInfo]) -> list[dict[str, PromptLogprob] | None]:
    """A prompt's tokens as vLLM tells them: of each the alternatives and itself, by id."""
    found: list[dict[str, PromptLogprob] | None] = []
    for token in prompt:
        if token.logprob is None:
            found.append(None)
            continue
        entries: dict[str, PromptLogprob] = {
            str(token_id): {"logprob": finite(logprob), "rank": rank, "decoded_token": label_of(tokenizer, token_id)}
            for rank, (token_id, logprob) in enumerate(token.top, start=1)
        }
        own: PromptLogprob = {
            "logprob": finite(token.logprob),
            "rank": rank_in_top(token),
            "decoded_token": label_of(tokenizer, token.id),
        }
        entries.setdefault(str(token.id), own)
        found.append(entries)
    return found
