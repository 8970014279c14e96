"""POST /v1/completions and /v1/fim/completions."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from octuor.server.schemas.completions import Completion
from octuor.server.settings import ServerSettings
from server.fake_engine import says
from server.http_client import Client, error_of, events_of

PATH = "/v1/completions"


def complete(client: Client, **fields: Any) -> Completion:
    answer = client.post(PATH, {"model": "pocket", **fields})
    assert answer.status_code == 200, answer.text
    return TypeAdapter(Completion).validate_python(answer.json(), extra="forbid")


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("Hello", [[1, 22557]]),
        ("", [[1]]),
        (["Hello", "Hi"], [[1, 22557], [1, 15359]]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_prompts(prompt: object, ids: list[list[int]]) -> None:
    client = Client()
    complete(client, prompt=prompt)
    assert [list(request.prompt.ids) for request in client.engine.requests] == ids


def test_defaults() -> None:
    client = Client()
    complete(client, prompt="Hello")
    (request,) = client.engine.requests
    assert (request.params.max_tokens, request.params.temperature, request.is_chat) == (16, 1.0, False)
    assert request.prompt_logprobs is None


def test_the_default_length_gives_way_to_the_context() -> None:
    client = Client()
    complete(client, prompt=[5] * 1020)
    assert client.engine.requests[0].params.max_tokens == 4


def test_texts_keep_their_blank() -> None:
    (choice,) = complete(Client(says(" there")), prompt="Hi", echo=True)["choices"]
    assert choice["text"] == "Hi there"


def test_choices_are_prompt_major() -> None:
    answer = complete(Client(), prompt=["a", "b"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] is not None
    assert answer["usage"]["prompt_tokens"] == 4


def test_echo_with_log_probabilities() -> None:
    """What evaluation harnesses ask for: the prompt's tokens as they were sent, one more, all lists of one length."""
    client = Client(says((736, " there")))
    (choice,) = complete(client, prompt=[1, 15359], echo=True, logprobs=1, max_tokens=1)["choices"]
    logprobs = choice["logprobs"]
    assert logprobs is not None
    assert logprobs["tokens"] == ["<s>", " Hi", " there"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5]
    assert {len(values) for values in logprobs.values()} == {3}  # type: ignore[arg-type]
    (choice,) = complete(client, prompt="Hi", echo=True, logprobs=0, max_tokens=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Hi", "length")
    assert choice["logprobs"] is not None
    assert choice["logprobs"]["tokens"] == ["<s>", "Hi"]


def test_a_stream() -> None:
    client = Client(says(" there", " you"))
    body = {"model": "mistral-tiny", "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    *events, done = events_of(client.post(PATH, body))
    assert done == "[DONE]"
    texts = {0: "", 1: ""}
    for event in events[:-1]:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == {0: " there you", 1: " there you"}
    assert events[-1]["usage"]["total_tokens"] == 8


@pytest.mark.parametrize(
    ("fields", "status", "says_so"),
    [
        ({}, 422, "prompt: expected a value"),
        ({"prompt": None}, 422, "prompt: expected a valid string, found null"),
        ({"prompt": []}, 422, "prompt: expected at least 1 items"),
        ({"prompt": [[]]}, 422, "prompt.0: expected at least 1 items"),
        ({"prompt": ["a", 5]}, 422, "prompt.1: expected a valid string, found 5"),
        ({"prompt": [5, "a"]}, 422, "prompt.1: expected a valid integer, found 'a'"),
        ({"prompt": [5, True]}, 422, "prompt.1: expected a valid integer, found true"),
        ({"prompt": [-1]}, 422, "prompt.0: expected greater than or equal to 0"),
        ({"prompt": [32000]}, 422, "expected token ids from 0 to 31999, found 32000"),
        ({"prompt": "a", "n": 100, "best_of": 101}, 422, "best_of: expected n = 100, found 101"),
        ({"prompt": "a", "logprobs": True}, 422, "logprobs: expected a valid integer, found true"),
        ({"prompt": "a", "logprobs": 21}, 422, "logprobs: expected less than or equal to 20"),
        ({"prompt": "a", "suffix": "b"}, 400, "Mixtral does not fill in the middle"),
        ({"prompt": "a", "max_tokens": 1023}, 400, "This model's maximum context length is 1024 tokens."),
        ({"prompt": [5] * 1025, "max_tokens": 0}, 400, "This model's maximum context length is 1024 tokens."),
        ({"prompt": ["a"] * 33, "n": 2}, 422, "for at most 64 texts in all, found 66"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], status: int, says_so: str) -> None:
    client = Client(settings=ServerSettings(max_choices=64))
    body = error_of(client.post(PATH, {"model": "pocket", **fields}), status)
    assert says_so in body["message"]
    assert client.engine.requests == []


def test_filling_in_the_middle_is_refused() -> None:
    body = error_of(Client().post("/v1/fim/completions", {"model": "codestral", "prompt": "def"}), 400)
    assert body["code"] == "fim_not_supported"
