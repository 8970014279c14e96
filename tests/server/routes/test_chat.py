"""POST /v1/chat/completions: what the engine is asked for, and what comes back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import TypeAdapter

from octuor.engine.request import Failed, Request
from octuor.errors import EngineError
from octuor.server.prompts import SAFE_PROMPT
from octuor.server.schemas.chat_answers import ChatCompletion
from octuor.tokenizer import encode_chat
from server.fake_engine import plays, says, step
from server.http_client import HELLO, Client, Exchange, error_of, exchange, pocket

CHAT = "/v1/chat/completions"


def asked(**fields: Any) -> Request:
    """What the engine gets for a request."""
    client = Client()
    answer = client.chat(**fields)
    assert answer.status_code == 200, answer.text
    return client.engine.requests[0]


def ids(*messages: tuple[str, str]) -> list[int]:
    return encode_chat(pocket().tokenizer, [{"role": role, "content": content} for role, content in messages])


# ---- what is asked -------------------------------------------------------------------------------


def test_defaults() -> None:
    request = asked()
    params = request.params
    assert request.prompt.ids == ids(("user", "Hello"))
    assert (request.n, request.is_chat, request.pooled, request.grammar, request.tenant) == (
        1,
        True,
        False,
        None,
        "local",
    )
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.7, 1.0, 0, 0.0)
    assert (params.max_tokens, params.min_tokens, params.seed, params.stop, params.logprobs) == (
        None,
        0,
        None,
        (),
        None,
    )


def test_every_field_reaches_the_engine() -> None:
    request = asked(
        temperature=0, top_p=0.5, top_k=7, min_p=0.1, max_tokens=9, min_tokens=1, random_seed=3, stop="x", n=2,
        presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.1, logit_bias={"5": -100}, logprobs=True,
        top_logprobs=2, prompt_logprobs=1,
    )  # fmt: skip
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p, params.max_tokens) == (0, 0.5, 7, 0.1, 9)
    assert (params.min_tokens, params.seed, params.stop, request.n, params.logprobs) == (1, 3, ("x",), 2, 2)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (1, -1, 1.1)
    assert (params.logit_bias, request.prompt_logprobs) == ({5: -100}, 1)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"seed": 5}, "seed", 5),
        ({"seed": 5, "random_seed": 6}, "seed", 5),
        ({"seed": -5.0}, "seed", -5),
        ({"max_completion_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 5.0}, "max_tokens", 5),
        ({"stop": ["a", "", "b"]}, "stop", ("a", "b")),
        ({"stop": ""}, "stop", ()),
        ({"top_k": -1}, "top_k", 0),
        ({"logit_bias": [0.5]}, "logit_bias", {}),
        ({"logprobs": False, "top_logprobs": 3}, "logprobs", None),
        ({"top_logprobs": 3}, "logprobs", 3),
        ({"logprobs": True}, "logprobs", 0),
        ({"ignore_eos": True, "max_tokens": 7}, "min_tokens", 7),
        ({"ignore_eos": True}, "min_tokens", 1024 - 9),
    ],
)
def test_spellings(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(asked(**fields).params, name) == value


def test_roles_and_content() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"text": "lo"}]
    given = [
        {"role": "developer", "content": "Be kind.", "name": None, "unknown": 5},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Oh"},
    ]
    expected = ids(("system", "Be kind."), ("user", "Hel\n\nlo"), ("assistant", ""), ("user", "Oh"))
    assert asked(messages=given).prompt.ids == expected


@pytest.mark.parametrize("field", ["safe_prompt", "safe_mode"])
def test_the_safe_prompt_comes_first(field: str) -> None:
    assert asked(**{field: True}).prompt.ids == ids(("system", SAFE_PROMPT), ("user", "Hello"))
    assert asked(**{field: False}).prompt.ids == ids(("user", "Hello"))


def test_earlier_answers_are_marked() -> None:
    given = [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Oh"}]
    prompt = asked(messages=given).prompt
    assert [[prompt.ids[place] for place in part] for part in prompt.spoken] == [[15359, 2]]


@pytest.mark.parametrize("name", ["pocket", "mistral-small", "dummy", "tgi", "mistralai/Mixtral-8x7B-Instruct-v0.1"])
def test_the_answer_has_the_name_that_was_asked_for(name: str) -> None:
    assert Client().chat(model=name).json()["model"] == name
    assert {chunk["model"] for chunk in Client().chat_stream(model=name)[:-1]} == {name}


# ---- what is answered ----------------------------------------------------------------------------


def test_a_whole_answer() -> None:
    answer = TypeAdapter(ChatCompletion).validate_python(
        Client(says("Hi", " there", cached=4)).chat().json(), extra="forbid"
    )
    assert answer["choices"][0]["message"]["content"] == "Hi there"
    assert answer["usage"] == {
        "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 4},
    }  # fmt: skip


def test_a_stream() -> None:
    *chunks, done = Client().chat_stream()
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Hi there"
    assert [chunk.get("usage", {}).get("completion_tokens") for chunk in chunks] == [None, None, None, 2]


def test_usage_comes_alone_where_it_is_asked_for() -> None:
    *chunks, _ = Client().chat_stream(stream_options={"include_usage": True})
    assert [(len(chunk["choices"]), chunk["usage"] is None) for chunk in chunks] == [(1, True)] * 4 + [(0, False)]


def test_a_prompt_counts_once() -> None:
    answer = Client().chat(n=3).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (9, 6)


def test_no_tokens() -> None:
    answer = Client().chat(max_tokens=0).json()
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("", "length")


def test_a_prefix_begins_the_answer() -> None:
    client = Client(says(" yes"))
    given = [*HELLO, {"role": "assistant", "content": "Sure,", "prefix": True}]
    assert client.chat(messages=given).json()["choices"][0]["message"]["content"] == "Sure, yes"
    assert client.engine.requests[0].is_chat is False
    assert (
        "".join(chunk["choices"][0]["delta"]["content"] for chunk in client.chat_stream(messages=given)[:-1])
        == "Sure, yes"
    )


def test_log_probabilities() -> None:
    client = Client(says((15359, "Hi"), (736, " there")))
    logprobs = client.chat(logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]
    assert [entry["token"] for entry in logprobs["content"]] == ["Hi"]  # the last one is the end's own
    assert logprobs["content"][0]["top_logprobs"][0]["token_id"] == 15359
    told = client.chat(prompt_logprobs=0).json()["prompt_logprobs"]
    assert told[0] is None
    assert len(told) == 9


def test_line_separators_do_not_cut_events() -> None:
    """Clients that use str.splitlines would."""
    events = Client(says("a\u2028b\u2029c\x85d")).chat_stream()
    assert events[1]["choices"][0]["delta"]["content"] == "a\u2028b\u2029c\x85d"


def test_headers_of_a_stream() -> None:
    headers = Client().chat(stream=True).headers
    assert headers["content-type"] == "text/event-stream"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "content-length" not in headers


def test_a_failure_in_the_middle_breaks_the_stream() -> None:
    """After an error event there is no [DONE], and the body does not end as it should."""
    client = Client(plays(step("Hi"), Failed(EngineError("the forward pass failed"))))

    async def read(now: Exchange) -> None:
        await now.until(lambda: b"forward pass" in now.body)
        assert b'data: {"error":{"message":"the forward pass failed","type":"server_error"' in now.body
        assert not now.is_whole

    exchange(client.app, CHAT, {"model": "pocket", "messages": HELLO, "stream": True}, read)


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_in_the_queue_are_cancelled(stream: bool) -> None:
    """No event has come: nothing was sent, and the engine hears of it all the same."""
    never = threading.Event()
    client = Client(plays(never))

    async def leave(now: Exchange) -> None:
        while not client.engine.jobs:
            await asyncio.sleep(0.001)
        now.leave()

    exchange(client.app, CHAT, {"model": "pocket", "messages": HELLO, "stream": stream}, leave)
    assert client.engine.jobs[0].cancelled.is_set()
    never.set()


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "says_so"),
    [
        ([{"role": "system", "content": "a"}], "expected at least one user message"),
        ([{"role": "assistant", "content": "a"}, *HELLO], "expected a user message before the first assistant message"),
        ([*HELLO, {"role": "assistant", "content": "a"}], "expected a user message as the last one"),
        ([{"role": "user", "content": "a", "prefix": True}, *HELLO], "expected prefix only on a last"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
    ],
)
def test_conversations_that_cannot_be(messages: list[dict[str, Any]], says_so: str) -> None:
    for stream in (False, True):
        assert says_so in error_of(Client().chat(messages=messages, stream=stream), 400)["message"]


@pytest.mark.parametrize(
    ("fields", "says_so"),
    [
        ({"tool_choice": "any"}, "tool_choice: expected tools to choose from"),
        ({"tools": [{"function": {"name": "f"}}], "tool_choice": {"function": {"name": "g"}}}, "found 'g'"),
        ({"tools": [{"function": {"name": "not a name"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "xml"}}, "response_format.type: expected text, json_object"),
        ({"response_format": {"type": "regex"}}, "expected a regular expression"),
    ],
)
def test_tools_and_formats_that_cannot_be(fields: dict[str, Any], says_so: str) -> None:
    assert says_so in error_of(Client().chat(**fields), 400)["message"]
