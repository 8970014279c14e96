"""From what clients send to the engine's prompts: messages, texts and ids, measured against the context.

Encoding may take seconds for megabytes of text, so it runs in another thread where there is much, and what is certain
to be too long is refused before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from octuor.engine.request import Prompt
from octuor.server.errors import ApiError, invalid
from octuor.server.registry import Served
from octuor.tokenizer import Message, Tokenizer, encode_prompt, encode_turns

SAFE_PROMPT = (
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid harmful, unethical, "
    "prejudiced, or negative content. Ensure replies promote fairness and positivity."
)
MUCH = 20_000  # characters whose encoding takes 20 ms or so
ITEM = 20  # characters whose encoding takes as long as handling one message or token

T = TypeVar("T")


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as the model reads it.

    prefix, prefix_ids  what the answer begins with; "" as a rule
    """

    prompt: Prompt
    prefix: str
    prefix_ids: Sequence[int]


def with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """A conversation with one more system text, after those that it begins with; "" adds nothing."""
    if not text:
        return list(messages)
    n_before = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
    return [*messages[:n_before], Message("system", text), *messages[n_before:]]


def encode_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> ChatPrompt:
    """The prompt of a conversation.

    System messages after an assistant's become the user's: the format has no other place for them there.

    Raises TokenizerError where the format cannot hold it, ApiError where it ends with an assistant's whole message.
    """
    given, last = list(messages), messages[-1]
    if last.role == "assistant" and not last.prefix:
        raise ApiError(
            400,
            "messages: expected a user message as the last one, found an assistant's; "
            "set its prefix to true to have it continued",
            param="messages",
            code="invalid_request_message_order",
        )
    first_answer = next((place for place, message in enumerate(given) if message.role == "assistant"), len(given))
    given[first_answer:] = [
        Message("user", message.content) if message.role == "system" else message for message in given[first_answer:]
    ]
    ids = [tokenizer.bos_id]
    spoken = []
    *turns, last_turn = encode_turns(tokenizer, given)
    for turn in turns:
        if turn.role == "assistant":
            spoken.append(range(len(ids), len(ids) + len(turn.ids)))
        ids += turn.ids
    n_before = len(ids)
    ids += last_turn.ids
    prefix_ids = ids[n_before:] if last.prefix else []
    return ChatPrompt(Prompt(ids, tuple(spoken)), last.content if last.prefix else "", prefix_ids)


async def encoded(n_chars: int, work: Callable[[], T]) -> T:
    """The result of work on text; from another thread where there is much, so that others need not wait for it."""
    return await asyncio.to_thread(work) if n_chars >= MUCH else work()


async def text_prompts(served: Served, texts: Sequence[str | list[int]], param: str) -> list[Prompt]:
    """Texts after BOS, and ids as they are. Raises ApiError, TokenizerError."""
    vocab_size = served.model.config.vocab_size
    for text in texts:
        if isinstance(text, str):
            check_chars(served, len(text), param)
        elif max(text) >= vocab_size:
            raise invalid(f"{param}: expected token ids from 0 to {vocab_size - 1}, found {max(text)}", param)
    n_chars = sum(len(text) for text in texts if isinstance(text, str))

    def encode() -> list[Prompt]:
        return [Prompt(encode_prompt(served.tokenizer, text) if isinstance(text, str) else text) for text in texts]

    return await encoded(n_chars + ITEM * len(texts), encode)


def check_chars(served: Served, n_chars: int, param: str) -> None:
    """Raise ApiError 400 where a text has too many characters for any number of tokens that fits."""
    least = -(-n_chars // served.longest_piece)
    if least > served.n_context:
        raise context_length_exceeded(served.n_context, least, param, at_least=True)


def check_room(served: Served, n_prompt: int, max_tokens: int | None, param: str) -> int:
    """Tokens that the context leaves for an answer. Raises ApiError 400 where they are too few."""
    n_context = served.n_context
    if n_prompt > n_context or (n_prompt == n_context and max_tokens != 0):
        raise context_length_exceeded(n_context, n_prompt, param)
    if max_tokens is not None and n_prompt + max_tokens > n_context:
        raise ApiError(
            400,
            f"This model's maximum context length is {n_context} tokens. However, you asked for "
            f"{n_prompt + max_tokens} ({n_prompt} in the {param}, {max_tokens} in the answer); lower max_tokens, or "
            "leave it out to use what there is",
            param=param,
            code="context_length_exceeded",
        )
    return n_context - n_prompt


def context_length_exceeded(n_context: int, n_prompt: int, param: str, *, at_least: bool = False) -> ApiError:
    """400 for a prompt that leaves no room; clients look for the words."""
    more = "at least " if at_least else ""
    return ApiError(
        400,
        f"This model's maximum context length is {n_context} tokens. However, there are {more}{n_prompt} in the "
        f"{param}, which leaves no room for an answer; shorten it",
        param=param,
        code="context_length_exceeded",
    )
