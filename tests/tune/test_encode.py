"""Ids and masks against mistral-common's own encoder, message by message; what preferences and texts become."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from octuor.errors import TokenizerError
from octuor.tokenizer import Message, Tokenizer, encode_chat, find_mistral_common_tokenizer, open_tokenizer
from octuor.tune.encode import encode_row
from octuor.tune.rows import Pair, Talk, Text
from tokenizer_file import mixtral_tokenizer

VERSIONS = ("v1", "v3")
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)
TALKS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)


@functools.cache
def ours(version: str) -> Tokenizer:
    return mixtral_tokenizer() if version == "v1" else open_tokenizer(find_mistral_common_tokenizer(version))


@functools.cache
def theirs(version: str) -> Any:
    return getattr(MistralTokenizer, version)().instruct_tokenizer


def masked(version: str, talk: Sequence[tuple[str, str]], system: str | None) -> tuple[list[int], list[bool]]:
    """As Mistral's fine-tuning masks a talk: each message encoded by itself, assistants' tokens counted."""
    encoder = theirs(version)
    ids, learned = encoder.start(), [False]
    for n, (asked, answered) in enumerate(talk):
        last = n == len(talk) - 1
        tokens, *_ = encoder.encode_user_message(
            UserMessage(content=asked), [], is_last=last, is_first=n == 0, system_prompt=system
        )
        answer = encoder.encode_assistant_message(AssistantMessage(content=answered), not last)
        ids += tokens + answer
        learned += [False] * len(tokens) + [True] * len(answer)
    return ids, learned


def messages_of(talk: Sequence[tuple[str, str]], system: str | None) -> tuple[Message, ...]:
    told = () if system is None else (Message("system", system),)
    turns = (Message(role, text) for both in talk for role, text in zip(("user", "assistant"), both, strict=True))
    return (*told, *turns)


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=40, deadline=None)
@given(TALKS, st.none() | TEXTS)
def test_ids_and_masks_are_those_of_mistral_common(
    version: str, talk: list[tuple[str, str]], system: str | None
) -> None:
    (piece,) = encode_row(ours(version), Talk("", messages_of(talk, system))).pieces
    ids, learned = masked(version, talk, system)
    assert piece.ids.tolist() == ids
    assert piece.learned.tolist() == learned


@pytest.mark.parametrize("version", VERSIONS)
def test_a_preference_is_the_prompt_with_either_answer(version: str) -> None:
    prompt = messages_of([("Hello", "Good day."), ("And you?", "")], "Be kind.")[:-1]
    tokenizer = ours(version)
    example = encode_row(tokenizer, Pair("", prompt, "I am well.", "Go away."))
    before = encode_chat(tokenizer, prompt)
    for piece, answer in zip(example.pieces, ("I am well.", "Go away."), strict=True):
        assert piece.ids.tolist() == [*before, *tokenizer.encode(answer), tokenizer.eos_id]
        assert piece.learned.tolist() == [False] * len(before) + [True] * (len(piece.ids) - len(before))


def test_a_text_counts_but_for_its_beginning() -> None:
    (piece,) = encode_row(mixtral_tokenizer(), Text("", "Once upon a time")).pieces
    assert piece.learned.tolist() == [False] + [True] * (len(piece.ids) - 1)
    assert piece.ids[-1] == mixtral_tokenizer().eos_id


def test_a_cut_example_may_have_nothing_left_to_learn() -> None:
    example = encode_row(mixtral_tokenizer(), Talk("", messages_of([("Hello there", "Good day.")], None)))
    assert example.n_tokens == len(example.pieces[0].ids) - 1
    assert not example.cut(example.n_longest - 1).is_empty
    assert example.cut(4).is_empty


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ((Message("user", "Hello"),), "expected an answer to learn, found none"),
        ((Message("assistant", "Hello"),), "expected a user message before the first assistant message"),
        (
            (Message("user", "a"), Message("assistant", "b"), Message("assistant", "c")),
            "expected a user message between two assistant messages",
        ),
        ((Message("user", "a"), Message("tool", "b")), "expected the role system, user, assistant, found 'tool'"),
    ],
)
def test_talks_that_cannot_be_learned_from(messages: tuple[Message, ...], line: str) -> None:
    with pytest.raises(TokenizerError, match=line):
        encode_row(mixtral_tokenizer(), Talk("", messages))
