"""What TGI's routes refuse, with which words, and how work ends when nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octuor.accounts import open_accounts, open_store
from octuor.engine.request import Failed, Prefilled
from octuor.errors import EngineError, OverloadError, RequestError
from octuor.server.schemas.tgi import GenerateParameters
from octuor.server.settings import ServerSettings
from server.fake_engine import plays, says, step
from server.http_client import Client, Exchange, exchange

ROUTES = ("/", "/generate", "/generate_stream")


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(says("Hi"))


def refusal(answer: httpx.Response, status: int = 422, kind: str = "validation") -> str:
    """The text of an error, which is in TGI's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert set(found) == {"error", "error_type"}
    assert found["error_type"] == kind
    text: str = found["error"]
    return text


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"temperature": -1.5}, "`temperature` must be strictly positive"),
        ({"temperature": "0.5"}, "`temperature` must be a valid number"),
        ({"temperature": True}, "`temperature` must be a valid number"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"repetition_penalty": 1e-9}, "`repetition_penalty` must be >= 0.01 and <= 100"),
        ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"top_k": 1.5}, "`top_k` must be a valid integer"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"max_new_tokens": 2**40}, "`max_new_tokens` must be <= 2147483647"),
        ({"seed": -1}, "`seed` must be >= 0 and < 2^64"),
        ({"seed": 2**64}, "`seed` must be >= 0 and < 2^64"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` must be a list of up to 4 stop sequences. Given: 5"),
        ({"stop": [1]}, "`stop.0` must be a valid string"),
        ({"stop": ["a" * 10_000_000]}, "`stop.0` must be at most 1000 characters long"),
        ({"stop": 3}, "`stop` must be a valid list"),
        ({"best_of": 5, "do_sample": True}, "`best_of` must be > 0 and <= 4. Given: 5"),
        ({"best_of": 0}, "`best_of` must be > 0 and <= 4. Given: 0"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"truncate": 0}, "`truncate` must be strictly positive"),
        ({"truncate": 1024}, "`truncate` must be strictly positive and less than 1024. Given: 1024"),
        ({"watermark": True}, "`watermark` must be false: this server does not mark its texts"),
        ({"adapter_id": "mine"}, "`adapter_id` must be null: this server has no adapters"),
        ({"details": "yes"}, "`details` must be a valid boolean"),
        ({"grammar": {"type": "ebnf", "value": "x"}}, "`grammar.type` must be"),
        ({"grammar": {"type": "regex", "value": ""}}, "grammar.value: expected a regular expression"),
        ({"grammar": {"type": "json", "value": 3}}, "grammar.value: expected a JSON schema"),
        ({"grammar": "json"}, "`grammar` must be an object"),
        ({"max_new_tokens": 1020}, "`inputs` tokens + `max_new_tokens` must be <= 1024. Given: 9 `inputs` tokens"),
        ([], "`parameters` must be an object"),
    ],
)
def test_parameters_are_refused_in_tgis_words(client: Client, parameters: object, text: str) -> None:
    for route in ROUTES:
        found = refusal(client.post(route, {"inputs": "[INST] Hello [/INST]", "parameters": parameters}))
        assert found.startswith(f"Input validation error: {text}")


def test_best_of_needs_sampling_and_its_own_seeds(client: Client) -> None:
    for route in ("/", "/generate"):
        greedy = client.post(route, {"inputs": "a", "parameters": {"best_of": 2}})
        assert refusal(greedy) == "Input validation error: you must use sampling when `best_of` is > 1"
        seeded = client.post(route, {"inputs": "a", "parameters": {"best_of": 2, "top_k": 3, "seed": 1}})
        assert refusal(seeded) == "Input validation error: `seed` must not be set when `best_of` > 1"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "`inputs` must be given"),
        ({"inputs": None}, "`inputs` must be a valid string"),
        ({"inputs": ["Hello"]}, "`inputs` must be a valid string"),
        ({"inputs": ""}, "`inputs` cannot be empty"),
        ({"inputs": "\ud800"}, "text: expected Unicode characters, found the lone surrogate"),
        ([], "`body` must be an object"),
        ({"inputs": " the" * 2000}, "`inputs` must have less than 1024 tokens. Given: 2002"),
        ({"inputs": "a" * 5_000_000}, "`inputs` must have less than 1024 tokens. Given: at least "),
    ],
)
def test_prompts_are_refused_in_tgis_words(client: Client, body: object, text: str) -> None:
    content = b'{"inputs": "\\ud800"}' if body == {"inputs": "\ud800"} else httpx.Request("POST", "/", json=body).read()
    headers = {"content-type": "application/json"}
    for route in ROUTES:
        found = refusal(client.request("POST", route, content=content, headers=headers))
        assert found.startswith(f"Input validation error: {text}")


@pytest.mark.parametrize("content", [b"", b"{", b'{"inputs": NaN}', b'{"inputs": "\xff"}', b"[" * 100_000])
def test_bodies_that_are_no_json(client: Client, content: bytes) -> None:
    for route in ROUTES:
        answer = client.request("POST", route, content=content, headers={"content-type": "application/json"})
        assert refusal(answer).startswith("Input validation error: ")


def test_bodies_of_another_kind_or_size(client: Client) -> None:
    for route in ROUTES:
        assert refusal(client.request("POST", route, content=b"x", headers={"content-type": "text/plain"}), 415)
    small = Client(says("Hi"), settings=ServerSettings(max_body_bytes=100))
    assert refusal(small.post("/generate", {"inputs": "a" * 200}), 413)


def test_what_streams_cannot_do(client: Client) -> None:
    for route, more in (("/generate_stream", {}), ("/", {"stream": True})):
        best_of = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}, **more}
        assert refusal(client.post(route, best_of)) == (
            "Input validation error: `best_of` != 1 is not supported when streaming tokens"
        )
        prefill = {"inputs": "a", "parameters": {"decoder_input_details": True}, **more}
        assert refusal(client.post(route, prefill)) == (
            "Input validation error: `decoder_input_details` == true is not supported when streaming tokens"
        )


def test_null_is_not_given(client: Client) -> None:
    names = (
        *("best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p"),
        *("do_sample", "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details"),
        *("decoder_input_details", "seed", "top_n_tokens", "grammar", "adapter_id", "no_such_field"),
    )
    for parameters in (dict.fromkeys(names), None):
        answer = client.post("/generate", {"inputs": "a", "parameters": parameters, "stream": None, "more": 1})
        assert answer.status_code == 200, answer.text
    params = client.engine.requests[-1].params
    assert (params.temperature, params.seed, params.max_tokens, params.stop) == (0.0, None, 100, ())


def test_parameters_reach_the_engine(client: Client) -> None:
    parameters = {
        "temperature": 0.5, "repetition_penalty": 1.2, "frequency_penalty": -0.5, "top_k": 7, "top_p": 0.9,
        "typical_p": 0.8, "max_new_tokens": 20.0, "stop": "END", "seed": 2**64 - 1, "top_n_tokens": 3,
    }  # fmt: skip
    assert client.post("/generate", {"inputs": "<s>[INST] A [/INST] B</s>", "parameters": parameters}).is_success
    request = client.engine.requests[-1]
    params = request.params
    assert (params.temperature, params.top_k, params.top_p, params.typical_p) == (0.5, 7, 0.9, 0.8)
    assert (params.repetition_penalty, params.frequency_penalty) == (1.2, -0.5)
    assert (params.max_tokens, params.stop, params.seed, params.logprobs) == (20, ("END",), 2**64 - 1, 3)
    assert list(request.prompt.ids)[-2:] == [365, 2]
    assert list(request.prompt.spoken) == [range(9, 11)]
    assert not request.is_chat


def test_truncation_keeps_what_the_model_said_marked(client: Client) -> None:
    parameters = {"truncate": 6}
    assert client.post("/generate", {"inputs": "A</s>[INST] A [/INST] B C</s>D", "parameters": parameters}).is_success
    prompt = client.engine.requests[-1].prompt
    assert len(prompt.ids) == 6
    assert [list(prompt.ids[part.start : part.stop]) for part in prompt.spoken] == [[365, 334, 2]]
    assert client.post("/generate", {"inputs": "[INST] A [/INST] B C</s>D", "parameters": {"truncate": 3}}).is_success
    assert list(client.engine.requests[-1].prompt.spoken) == [range(2)]
    assert client.post("/generate", {"inputs": "[INST] A [/INST] B C</s>D", "parameters": {"truncate": 1}}).is_success
    assert list(client.engine.requests[-1].prompt.spoken) == []


_names = st.sampled_from(sorted(GenerateParameters.model_fields))
_values = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)),
    st.lists(st.text(max_size=3), max_size=5),
    st.dictionaries(st.sampled_from(["type", "value"]), st.sampled_from(["json", "regex", "[a-z", 3, {}, None])),
)


@settings(deadline=None, max_examples=40)
@given(
    route=st.sampled_from(ROUTES),
    inputs=st.one_of(st.text(max_size=20), _values),
    parameters=st.one_of(st.dictionaries(_names, _values, max_size=4), _values),
    stream=_values,
)
def test_any_body_is_answered_or_refused(
    client: Client, route: str, inputs: object, parameters: object, stream: object
) -> None:
    answer = client.post(route, {"inputs": inputs, "parameters": parameters, "stream": stream})
    if answer.status_code != 200:
        refusal(answer)


# ---- the engine says no --------------------------------------------------------------------------


@pytest.mark.parametrize("is_draining", [False, True])
def test_a_full_queue_is_429_and_never_503(is_draining: bool) -> None:
    client = Client()
    client.engine.refuses = OverloadError("the queue is full", is_draining=is_draining, retry_after_s=3)
    for route in ROUTES:
        answer = client.post(route, {"inputs": "a"})
        assert "the queue is full" in refusal(answer, 429, "overloaded")
        assert answer.headers["retry-after"] == "3"


def test_the_model_is_loading() -> None:
    client = Client()
    client.serving.registry = None
    for route in ROUTES:
        assert refusal(client.post(route, {"inputs": "a"}), 429, "overloaded")


def test_the_engine_finds_a_request_bad() -> None:
    client = Client()
    client.engine.refuses = RequestError("n: expected 1 to 2 choices, found 4")
    for route in ROUTES:
        text = "Input validation error: n: expected 1 to 2 choices, found 4"
        assert refusal(client.post(route, {"inputs": "a"})) == text


def test_a_failure_before_the_first_token_has_a_status() -> None:
    client = Client(plays(Failed(EngineError("the forward pass failed"))))
    for route in ROUTES:
        assert refusal(client.post(route, {"inputs": "a"}), 500, "generation")


def test_a_failure_in_a_stream_is_an_event_in_tgis_form() -> None:
    failure = Failed(EngineError("the forward pass failed"))
    for route in ("/", "/generate_stream"):
        client = Client(plays(Prefilled(0), step(" Hi"), failure))
        found = exchanged(
            client, route, {"inputs": "a", "stream": True}, lambda now: now.until(lambda: b"error" in now.body)
        )
        first, second, end = found.body.split(b"\n\n")
        assert b'"generated_text":null' in first
        assert second.startswith(b'data: {"error":"')
        assert b'"error_type":"generation"' in second
        assert (end, found.is_whole) == (b"", False)  # the connection breaks: nobody takes it for the end


def test_keys_are_asked_for_and_accounted(tmp_path: Path) -> None:
    body = {"inputs": "Hello", "parameters": {"details": True}}
    with open_store(tmp_path) as store:
        secret, key = store.create_key("ada")
    with open_store(tmp_path) as store, open_accounts(tmp_path) as accounts:
        client = Client(says(" Hi"), accounts=accounts)
        for route in ROUTES:
            for headers in ({}, {"authorization": "Bearer wrong"}):
                answer = client.request("POST", route, json=body, headers=headers)
                assert (answer.status_code, set(answer.json())) == (401, {"error"})  # a text, and no error_type
                assert "key" in answer.json()["error"]
            assert (
                client.request("POST", route, json=body, headers={"authorization": f"Bearer {secret}"}).status_code
                == 200
            )
        assert client.get("/info").status_code == 401
        (row,) = store.usage(key.id)
        assert (row.requests, row.prompt_tokens, row.completion_tokens) == (3, 6, 3)


# ---- the client goes away ------------------------------------------------------------------------


def exchanged(
    client: Client, path: str, body: object, watch: Callable[[Exchange], Coroutine[Any, Any, None]]
) -> Exchange:
    """What was sent when `watch` and the application have ended."""
    seen: list[Exchange] = []

    async def watching(now: Exchange) -> None:
        seen.append(now)
        await watch(now)

    exchange(client.app, path, body, watching)
    return seen[0]


@pytest.mark.parametrize("route", ["/", "/generate", "/generate_stream"])
def test_work_ends_when_the_client_goes(route: str) -> None:
    over = threading.Event()
    client = Client(plays(Prefilled(0), step(" Hi"), over))

    async def leave(now: Exchange) -> None:
        if route == "/generate_stream":
            await now.until(lambda: b"token" in now.body)
        else:
            await begun(client)
        now.leave()

    found = exchanged(client, route, {"inputs": "a"}, leave)
    over.set()
    assert client.engine.jobs[0].cancelled.is_set()
    assert not found.is_whole or found.status == 499


async def begun(client: Client) -> None:
    """Wait until the engine has a request."""
    for _ in range(1000):
        if client.engine.jobs:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no request reached the engine")
