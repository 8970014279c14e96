"""From what clients send to the engine's prompts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from octuor.errors import TokenizerError
from octuor.server.errors import ApiError
from octuor.server.prompts import (
    MUCH,
    SAFE_PROMPT,
    check_chars,
    check_room,
    encode_messages,
    encoded,
    text_prompts,
    with_system,
)
from octuor.server.registry import Served
from octuor.tokenizer import Message, encode_chat
from server.fake_engine import FakeEngine, says
from server.http_client import pocket
from tokenizer_file import mixtral_tokenizer

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def served(n_context: int = 100) -> Served:
    return Served("pocket", pocket(), FakeEngine(says("Hi"), n_context=n_context))


def messages(*pairs: tuple[str, str]) -> list[Message]:
    return [Message(role, content) for role, content in pairs]


@pytest.mark.parametrize(
    "given",
    [
        messages((USER, "Hello")),
        messages((SYSTEM, "Be kind."), (USER, "Hello"), (USER, "World")),
        messages((USER, "Hello"), (ASSISTANT, "Hi there!"), (USER, "How are you?")),
        messages((SYSTEM, SAFE_PROMPT), (USER, "Hello")),
        [*messages((USER, "Hello")), Message(ASSISTANT, "Sure,", prefix=True)],
    ],
)
def test_ids_are_those_of_the_chat_format(given: Sequence[Message]) -> None:
    tokenizer = mixtral_tokenizer()
    assert encode_messages(tokenizer, given).prompt.ids == encode_chat(tokenizer, given)


def test_the_safe_prompt_is_mistrals() -> None:
    """55 ids before "Hello", as mistral-common and the platform have it."""
    assert len(encode_messages(mixtral_tokenizer(), messages((SYSTEM, SAFE_PROMPT), (USER, "Hello"))).prompt.ids) == 55


def test_what_the_model_said_is_marked() -> None:
    tokenizer = mixtral_tokenizer()
    given = messages((USER, "Hello"), (ASSISTANT, "Hi there!"), (USER, "How are you?"), (ASSISTANT, ""), (USER, "Oh"))
    prompt = encode_messages(tokenizer, given).prompt
    said = [[prompt.ids[place] for place in part] for part in prompt.spoken]
    assert said == [[15359, 736, 28808, 2], [2]]


def test_a_prefix_is_the_answers_beginning_and_not_said() -> None:
    given = [*messages((USER, "Hello")), Message(ASSISTANT, "Sure,", prefix=True)]
    prompt = encode_messages(mixtral_tokenizer(), given)
    assert (prompt.prefix, list(prompt.prefix_ids), prompt.prompt.spoken) == ("Sure,", [12875, 28725], ())


def test_late_system_messages_become_the_users() -> None:
    tokenizer = mixtral_tokenizer()
    late = messages((USER, "a"), (ASSISTANT, "b"), (SYSTEM, "c"), (USER, "d"))
    users = messages((USER, "a"), (ASSISTANT, "b"), (USER, "c"), (USER, "d"))
    assert encode_messages(tokenizer, late) == encode_messages(tokenizer, users)


def test_conversations_that_cannot_be() -> None:
    tokenizer = mixtral_tokenizer()
    with pytest.raises(ApiError, match="expected a user message as the last one"):
        encode_messages(tokenizer, messages((USER, "a"), (ASSISTANT, "b")))
    for given in (messages((SYSTEM, "a")), messages((ASSISTANT, "a"), (USER, "b"))):
        with pytest.raises(TokenizerError):
            encode_messages(tokenizer, given)


def test_one_more_system_text() -> None:
    given = messages((SYSTEM, "a"), (USER, "b"))
    assert with_system(given, "") == given
    assert with_system(given, "c") == messages((SYSTEM, "a"), (SYSTEM, "c"), (USER, "b"))
    assert with_system([], "c") == messages((SYSTEM, "c"))


def test_texts_get_bos_and_ids_do_not() -> None:
    prompts = asyncio.run(text_prompts(served(), ["Hello", [5, 6], ""], "prompt"))
    assert [list(prompt.ids) for prompt in prompts] == [[1, 22557], [5, 6], [1]]
    with pytest.raises(ApiError, match="expected token ids from 0 to 31999, found 32000"):
        asyncio.run(text_prompts(served(), [[1, 32000]], "prompt"))


def test_much_is_worked_out_elsewhere() -> None:
    here = threading.get_ident()
    assert asyncio.run(encoded(MUCH - 1, threading.get_ident)) == here
    assert asyncio.run(encoded(MUCH, threading.get_ident)) != here


def test_what_is_certainly_too_long_is_not_encoded() -> None:
    """No token has more than 16 characters."""
    check_chars(served(), 1600, "prompt")
    with pytest.raises(ApiError, match=r"is 100 tokens\. However, there are at least 101 in the prompt"):
        check_chars(served(), 1601, "prompt")


@pytest.mark.parametrize(("n_prompt", "max_tokens", "room"), [(99, None, 1), (99, 1, 1), (100, 0, 0), (1, 99, 99)])
def test_room_for_an_answer(n_prompt: int, max_tokens: int | None, room: int) -> None:
    assert check_room(served(), n_prompt, max_tokens, "messages") == room


@pytest.mark.parametrize(("n_prompt", "max_tokens"), [(100, None), (101, 0), (99, 2), (1, 100)])
def test_no_room_for_an_answer(n_prompt: int, max_tokens: int | None) -> None:
    with pytest.raises(ApiError) as caught:
        check_room(served(), n_prompt, max_tokens, "messages")
    assert caught.value.message.startswith("This model's maximum context length is 100 tokens.")
    assert (caught.value.status_code, caught.value.code) == (400, "context_length_exceeded")
