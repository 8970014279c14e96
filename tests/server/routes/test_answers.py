"""/v1 over the real engine and the pocket model: what the text, the tokens and the vectors are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from octuor.api import Model
from octuor.logit_filters import log_softmax
from octuor.sampling import SamplingParams
from server.http_client import HELLO, Client, error_of, events_of, pocket
from server.live_client import live_client

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
STORY = [{"role": "user", "content": "Tell me a story about a dog."}]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with live_client() as found:
        yield found


def text_of(answer: Any) -> str:
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def streamed(client: Client, **fields: Any) -> str:
    chunks = client.chat_stream(**fields)[:-1]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def alone(model: Model, messages: Any, **params: Any) -> str:
    generation = model.chat(messages, SamplingParams(**params))
    return "".join(token.text for token in generation)


def test_the_text_is_the_models_own(client: Client) -> None:
    """Whole, streamed, and without a server."""
    expected = alone(pocket(), STORY, temperature=0, max_tokens=40)
    assert text_of(client.chat(messages=STORY, temperature=0, max_tokens=40)) == expected
    assert streamed(client, messages=STORY, temperature=0, max_tokens=40) == expected


def test_a_seed_gives_the_same_text(client: Client) -> None:
    fields = {"messages": STORY, "temperature": 1, "max_tokens": 20}
    one, same, other = (
        text_of(client.chat(**fields, **seed)) for seed in ({"seed": 5}, {"random_seed": 5}, {"seed": 6})
    )
    assert one == same != other
    choices = client.chat(**fields, seed=5, n=3).json()["choices"]
    assert choices[0]["message"]["content"] == one
    assert len({choice["message"]["content"] for choice in choices}) == 3


def test_stop_strings_end_an_answer(client: Client) -> None:
    whole = text_of(client.chat(messages=STORY, temperature=0, max_tokens=40))
    stop = whole[10:14]
    answer = client.chat(messages=STORY, temperature=0, max_tokens=40, stop=stop)
    assert text_of(answer) == whole[: whole.index(stop)]
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert streamed(client, messages=STORY, temperature=0, max_tokens=40, stop=[stop]) == whole[: whole.index(stop)]


def test_a_prefix_is_gone_on_from(client: Client) -> None:
    whole = text_of(client.chat(messages=STORY, temperature=0, max_tokens=30))
    start = whole[: whole.index(" ", 12)]
    prefix = [*STORY, {"role": "assistant", "content": start, "prefix": True}]
    assert whole.startswith(text_of(client.chat(messages=prefix, temperature=0, max_tokens=8)))


def test_earlier_turns_are_cached(client: Client) -> None:
    first = text_of(client.chat(messages=STORY, temperature=0, max_tokens=100))
    turns = [*STORY, {"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
    usage = client.chat(messages=turns, temperature=0, max_tokens=4).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 64


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json", "value": SCHEMA},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_answers_match_a_schema(client: Client, form: dict[str, Any], stream: bool) -> None:
    fields = {"response_format": form, "seed": 1, "max_tokens": 60}
    text = streamed(client, **fields) if stream else text_of(client.chat(**fields))
    assert json.loads(text) in ({"a": 1}, {"a": 2})


def test_a_regular_expression(client: Client) -> None:
    form = {"type": "regex", "value": "[ab]{3}c"}
    text = text_of(client.chat(response_format=form, seed=1))
    assert len(text) == 4
    assert set(text[:3]) <= {"a", "b"}
    assert text[3] == "c"


def test_a_prefix_is_part_of_what_must_match(client: Client) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    begun = [*HELLO, {"role": "assistant", "content": '{"a"', "prefix": True}]
    assert json.loads(text_of(client.chat(messages=begun, response_format=form, seed=1))) in ({"a": 1}, {"a": 2})
    wrong = [*HELLO, {"role": "assistant", "content": "Sure", "prefix": True}]
    error_of(client.chat(messages=wrong, response_format=form), 400)


@pytest.mark.parametrize("choice", ["any", "required", {"type": "function", "function": {"name": "weather"}}])
def test_tools_that_must_be_called(client: Client, choice: object) -> None:
    fields = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False, "seed": 1}
    (answer,) = client.chat(**fields).json()["choices"]
    (call,) = answer["message"]["tool_calls"]
    assert (answer["finish_reason"], answer["message"]["content"]) == ("tool_calls", "")
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")
    chunks = client.chat_stream(**fields)[:-1]
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == [call["function"]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_results_of_tools_can_be_answered(client: Client) -> None:
    call = {"id": "a1b2c3d4e", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    turns = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "sunny"},
    ]
    assert client.chat(messages=turns, tools=[TOOL], max_tokens=4, tool_choice="none").status_code == 200


def test_schemas_that_cannot_be(client: Client) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}
    for stream in (True, False):
        assert "schema" in error_of(client.chat(response_format=form, stream=stream), 400)["message"]


def test_completions_score_a_prompt(client: Client) -> None:
    """As evaluation harnesses do: each token's log-probability is the model's own, whatever the temperature."""
    ids = pocket().tokenizer.encode("Once upon a time")
    body = {"model": "pocket", "prompt": [1, *ids], "echo": True, "logprobs": 1, "max_tokens": 1}
    logprobs = client.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    rows = pocket().logits([1, *ids])
    expected = [log_softmax(row)[token] for row, token in zip(rows, ids, strict=False)]
    assert logprobs["token_logprobs"][0] is None
    assert np.allclose(logprobs["token_logprobs"][1:-1], expected, atol=0.05)  # keys and values in f16 there, f32 here
    for token, logprob, top in list(zip(*list(logprobs.values())[:3], strict=True))[1:]:
        assert top[token] == logprob


def test_completions_stream_what_they_say(client: Client) -> None:
    body = {"model": "pocket", "prompt": "Once upon a", "temperature": 0, "max_tokens": 12}
    whole = client.post("/v1/completions", body).json()["choices"][0]["text"]
    events = events_of(client.post("/v1/completions", body | {"stream": True}))[:-1]
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert whole.startswith(" ")


def test_vectors_have_length_one_and_a_meaning(client: Client) -> None:
    texts = ["The dog runs in the park.", "A dog is running in the park.", "Quantum field theory"]
    answer = client.post("/v1/embeddings", {"model": "mistral-embed", "input": texts}).json()
    vectors = np.array([entry["embedding"] for entry in answer["data"]])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
