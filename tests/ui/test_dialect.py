"""What an address is asked with, and what is made of its refusals."""

from __future__ import annotations

from typing import Any

import pytest

from octuor.errors import UiError
from octuor.ui.backend import Ask, ChatSettings, Message
from octuor.ui.dialect import Dialect, Unprefixed, read_cards

HELLO = (Message("user", "Hello"),)


def ask(*, continues: bool = False, **settings: Any) -> Ask:
    messages = (*HELLO, Message("assistant", "Hi")) if continues else HELLO
    return Ask("m", messages, ChatSettings(**settings), continues)


def test_everything_is_asked_for_at_first() -> None:
    assert Dialect().body(ask(system="Be kind.", seed=3)) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.9,
        "top_p": 0.9,
        "top_k": 50,
        "repetition_penalty": 1.2,
        "seed": 3,
        "max_tokens": 256,
    }


def test_what_is_off_is_not_sent() -> None:
    body = Dialect().body(ask(top_k=0))
    assert "top_k" not in body
    assert "seed" not in body


@pytest.mark.parametrize(
    ("refusal", "changes", "ignored"),
    [
        ("Unrecognized request argument supplied: top_k", {"top_k": None}, ("top_k",)),
        ("'max_tokens' is not supported; use another", {"max_tokens": "max_completion_tokens"}, ()),
        ('{"loc": ["body", "seed"], "type": "extra_forbidden"}', {"seed": "random_seed"}, ()),
        ("no repetition_penalty", {"repetition_penalty": "repeat_penalty"}, ()),
        ("unknown: top_k, stream_options", {"top_k": None, "stream_options": None}, ("top_k",)),
        ("temperature does not support 0.9 with this model", {"temperature": None}, ("temperature",)),
    ],
)  # fmt: skip
def test_what_a_refusal_names_is_renamed_or_left_out(
    refusal: str, changes: dict[str, str | None], ignored: tuple[str, ...]
) -> None:
    dialect, question = Dialect(), ask(seed=3)
    before = dialect.body(question)
    assert dialect.learn(before, refusal)
    after = dialect.body(question)
    expected = {changes.get(name, name): value for name, value in before.items() if changes.get(name, name)}
    assert after == expected
    assert dialect.ignored(question) == ignored


def test_a_refusal_that_names_nothing_is_tried_once_without_what_is_unusual() -> None:
    dialect = Dialect()
    body = dialect.body(ask())
    assert dialect.learn(body, "Bad Request")
    plain = dialect.body(ask())
    assert set(body) - set(plain) == {"top_k", "repetition_penalty", "stream_options"}
    assert not dialect.learn(plain, "Bad Request")


def test_a_refusal_of_a_server_that_took_it_before_teaches_nothing() -> None:
    dialect = Dialect(is_proven=True)
    body = dialect.body(ask())
    assert not dialect.learn(body, "the prompt is too long")
    assert dialect.body(ask()) == body


def test_learning_ends() -> None:
    """However a server refuses, there are only so many ways to ask."""
    dialect, question = Dialect(), ask(seed=1)
    n = 0
    while dialect.learn(dialect.body(question), " ".join(dialect.body(question))):
        n += 1
        assert n < 10
    assert set(dialect.body(question)) == {"model", "messages", "stream", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("continuation", "last", "more"),
    [
        ("prefix", {"prefix": True}, {}),
        ("vllm", {}, {"continue_final_message": True, "add_generation_prompt": False}),
        ("llama.cpp", {}, {}),
    ],
)
def test_an_answer_is_gone_on_with(continuation: Any, last: dict[str, Any], more: dict[str, Any]) -> None:
    body = Dialect(continuation).body(ask(continues=True))
    assert body["messages"][-1] == {"role": "assistant", "content": "Hi"} | last
    assert more.items() <= body.items()


def test_an_unknown_server_does_not_go_on() -> None:
    with pytest.raises(UiError, match="no way to go on with an answer"):
        Dialect().body(ask(continues=True))


@pytest.mark.parametrize(
    ("pieces", "fresh"),
    [
        (["Hi", " there"], " there"),
        (["H", "i", " there"], " there"),
        (["Hi there"], " there"),
        (["Hello"], "Hello"),
        (["H", "ola"], "Hola"),
        (["H"], "H"),
        (["Hi"], ""),
        ([], ""),
    ],
)
def test_what_was_there_before_is_not_told_again(pieces: list[str], fresh: str) -> None:
    text = Unprefixed("Hi")
    assert "".join([text.push(piece) for piece in pieces] + [text.finish()]) == fresh


def test_models_are_read_from_every_server() -> None:
    cards = {
        "data": [
            {"id": "gpt", "owned_by": "openai"},
            {"id": "mixtral", "owned_by": "vllm", "root": "/models/mixtral", "max_model_len": 4096},
            {"id": "ours", "owned_by": "mistralai", "name": "ours", "max_context_length": 2048},
            {"id": "mistral-small", "owned_by": "mistralai", "name": "ours"},
            {"id": "mistral-embed", "capabilities": {"completion_chat": False}},
            {"id": "gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 512}},
            {"id": "odd", "owned_by": None, "max_model_len": "many", "name": 7, "capabilities": None, "meta": None},
            {"name": "nameless"},
            "nothing",
        ]
    }
    assert read_cards(cards) == [
        ("gpt", None, "openai"),
        ("mixtral", 4096, "vllm"),
        ("ours", 2048, "mistralai"),
        ("gguf", 512, "llamacpp"),
        ("odd", None, ""),
    ]


@pytest.mark.parametrize("body", [None, [], {}, {"data": None}, "text"])
def test_what_is_no_list_of_models_is_an_empty_one(body: Any) -> None:
    assert read_cards(body) == []
