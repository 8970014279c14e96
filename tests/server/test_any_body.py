"""Whatever a client sends: an answer or an error of its own making, never 500, and the engine goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.http_client import HELLO, JSON, Client, error_of
from server.live_client import live_client

N_CONTEXT = 64  # so that answers are short whatever is asked for

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 0.5, 1, "", "a", "auto", "json_object", "mistral-tiny", "\ud800", "</s>", 1e308, 2**63])
    | st.text(max_size=5)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
SCHEMAS = st.sampled_from([{}, {"type": "object"}, {"type": "integer"}, {"$ref": "#"}, {"enum": []}, {"type": 5}, True])
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "x"])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES | SCALARS, "content": st.text(max_size=8) | VALUES},
        optional={"prefix": SCALARS, "tool_calls": VALUES, "name": SCALARS, "tool_call_id": SCALARS},
    ),
    max_size=4,
)
FUNCTIONS = st.fixed_dictionaries({"name": st.just("f") | SCALARS}, optional={"parameters": SCHEMAS | VALUES})
TOOLS = st.lists(st.fixed_dictionaries({"function": FUNCTIONS}), max_size=2)
FORMATS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema", "json", "regex"]) | SCALARS},
    optional={"json_schema": st.fixed_dictionaries({"schema": SCHEMAS}) | VALUES, "value": SCHEMAS | SCALARS},
)
BIASES = st.dictionaries(st.sampled_from(["5", "x", "99999", "-1", "٣"]), SCALARS)

NAMES = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "min_tokens", "seed", "random_seed", "stop", "n",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "stream_options", "logprobs",
)  # fmt: skip
SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(NAMES, SCALARS | VALUES),
    "stream": st.booleans() | SCALARS,
    "logit_bias": BIASES | VALUES,
    "response_format": FORMATS | VALUES,
}
CHAT: dict[str, st.SearchStrategy[Any]] = SAMPLING | {
    "messages": MESSAGES | VALUES,
    "tools": TOOLS | VALUES,
    "tool_choice": st.sampled_from(["any", "none"]) | VALUES,
    **dict.fromkeys(("max_completion_tokens", "safe_prompt", "top_logprobs", "prompt_logprobs"), SCALARS),
}
COMPLETIONS: dict[str, st.SearchStrategy[Any]] = SAMPLING | {
    "prompt": st.text(max_size=8) | st.lists(st.integers(-1, 32001), max_size=4) | VALUES,
    **dict.fromkeys(("echo", "best_of", "suffix"), SCALARS),
}
EMBEDDINGS: dict[str, st.SearchStrategy[Any]] = {
    "input": st.text(max_size=8) | st.lists(st.text(max_size=8), max_size=4) | VALUES,
    **dict.fromkeys(("encoding_format", "dimensions", "output_dimension"), SCALARS),
}


def bodies(fields: dict[str, st.SearchStrategy[Any]], needed: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What is needed, and one to three fields of any value; now and then anything at all."""
    names = st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True)
    chosen = names.flatmap(lambda found: st.fixed_dictionaries({name: fields[name] for name in found}))
    return chosen.map(lambda given: needed | given) | VALUES


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server over the pocket model."""
    with live_client(N_CONTEXT) as found:
        yield found
        assert found.chat(max_tokens=2).status_code == 200


def check(client: Client, path: str, body: object) -> None:
    answer = client.request("POST", path, content=json.dumps(body), headers=JSON)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error_of(answer, answer.status_code)


SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMED = {"model": "pocket"}


@SETTINGS
@given(body=bodies(CHAT, NAMED | {"messages": HELLO, "max_tokens": 2}))
def test_chats(client: Client, body: object) -> None:
    check(client, "/v1/chat/completions", body)


@SETTINGS
@given(body=bodies(COMPLETIONS, NAMED | {"prompt": "Hello", "max_tokens": 2}))
def test_completions(client: Client, body: object) -> None:
    check(client, "/v1/completions", body)


@SETTINGS
@given(body=bodies(EMBEDDINGS, NAMED | {"input": "Hello"}))
def test_embeddings(client: Client, body: object) -> None:
    check(client, "/v1/embeddings", body)


@SETTINGS
@given(content=st.binary(max_size=40) | st.text('{}[]":,0123456789.eE-+ntfalsu\\ ', max_size=40).map(str.encode))
def test_bytes(client: Client, content: bytes) -> None:
    answer = client.request("POST", "/v1/chat/completions", content=content, headers=JSON)
    error_of(answer, answer.status_code)
    assert answer.status_code in (400, 422)
