"""Every row of the error table, in both dialects' bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from octuor.engine.request import Event, Failed, Request
from octuor.errors import (
    AccountError,
    CapacityError,
    CheckpointError,
    EngineError,
    GrammarError,
    OctuorError,
    OverloadError,
    RequestError,
    TokenizerError,
)
from octuor.sampling import make_sampler
from octuor.server.errors import ApiError, as_api_error, error_body, error_response, from_octuor, from_validation
from octuor.server.settings import ServerSettings
from server.fake_engine import FakeEngine, FakeJob, plays, says
from server.http_client import HELLO, JSON, Client, error_of

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def test_the_body_of_v1_and_that_of_tgi() -> None:
    error = ApiError(404, "no", param="model", code="model_not_found")
    inner = {"message": "no", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    assert error_body("/v1/models/x", error) == {"object": "error", **inner, "error": inner}
    assert error_body("/generate", error) == {"error": "no"}
    assert error_body("/generate", ApiError(500, "no")) == {"error": "no", "error_type": "generation"}


@pytest.mark.parametrize(
    ("status", "kind", "shown_status"),
    [(422, "validation", 422), (400, "validation", 422), (429, "overloaded", 429), (503, "overloaded", 429)],
)
def test_tgi_is_told_what_it_can_bear(status: int, kind: str, shown_status: int) -> None:
    """Its clients ask for ever on 503."""
    response = error_response("/", ApiError(status, "`x` must be y"))
    assert response.status_code == shown_status
    assert f'"error_type":"{kind}"'.encode() in response.body
    assert (b"Input validation error" in response.body) == (kind == "validation")


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (RequestError("n: expected 1 to 32 choices, found 99"), 422, None, "n"),
        (TokenizerError("messages[3]: expected the role user"), 400, None, "messages.3"),
        (GrammarError("tools[0].function.name: expected letters"), 400, None, "tools.0.function.name"),
        (OverloadError("full", retry_after_s=2.5), 429, "queue_full", None),
        (OverloadError("ending", is_draining=True), 503, "draining", None),
        (AccountError("no such key", kind="invalid"), 401, "invalid_api_key", None),
        (AccountError("expired", kind="expired"), 401, "invalid_api_key", None),
        (AccountError("wait", kind="rate_limited", retry_after_s=7.2), 429, "rate_limit_exceeded", None),
        (AccountError("not this", kind="model_not_allowed"), 403, "model_not_allowed", "model"),
        (AccountError("/home/x/accounts.db: disk full", kind="state"), 503, "accounts", None),
        (CapacityError("no room"), 503, None, None),
        (EngineError("a step failed"), 500, None, None),
        (CheckpointError("nan"), 500, None, None),
    ],
)
def test_our_errors_have_a_status(error: OctuorError, status: int, code: str | None, param: str | None) -> None:
    shown = from_octuor(error)
    assert (shown.status_code, shown.code, shown.param) == (status, code, param)
    assert ("retry-after" in (shown.headers or {})) == (status in (429, 503) and code != "accounts")
    assert "/home" not in shown.message


def test_waiting_times_are_whole_seconds_and_enough() -> None:
    assert (from_octuor(OverloadError("full", retry_after_s=2.5)).headers or {})["retry-after"] == "3"
    error = AccountError("wait", kind="rate_limited", retry_after_s=0.1)
    assert (from_octuor(error).headers or {})["retry-after"] == "1"


def test_bugs_keep_their_secrets() -> None:
    assert "secret" not in as_api_error(KeyError("secret")).message


def test_messages_for_tgi_name_the_field_in_backticks() -> None:
    errors = [{"loc": ("body", "parameters", "top_p"), "msg": "Input should be less than 1", "type": "less_than"}]
    assert from_validation(errors, as_tgi=True).message == "Input validation error: `top_p` must be less than 1"


# ---- through the application ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "headers", "status", "says"),
    [
        (b'{"a', JSON, 400, "found a mistake at character 1"),
        (b"", JSON, 400, "found nothing"),
        (b"\xff\xfe", JSON, 400, "expected UTF-8"),
        (b'{"model": NaN}', JSON, 400, "NaN"),
        (b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}", JSON, 400, "inside each other"),
        (b"[]", JSON, 422, "body: expected an object, found a list of 0"),
        (b"null", JSON, 422, "body: expected an object, found null"),
        (b"{}", JSON, 422, "model: expected a value, found none"),
        (b"{}", {"content-type": "text/plain"}, 415, "found 'text/plain'"),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415, "with curl add"),
        (b"{}", {"content-type": "application/json/x; ="}, 415, "expected application/json"),
        (b"{}", {"origin": "https://example.org"}, 415, "found None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
def test_bodies_that_are_none(path: str, content: bytes, headers: dict[str, str], status: int, says: str) -> None:
    body = error_of(Client().request("POST", path, content=content, headers=headers), status)
    assert says in body["message"]


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/vnd.api+json", None]
)
def test_bodies_that_are(kind: str | None) -> None:
    content = b'\xef\xbb\xbf{"model": "pocket", "input": "x", "unknown": {"a": [1]}}'
    headers = {} if kind is None else {"content-type": kind}
    assert Client().request("POST", EMBEDDINGS, content=content, headers=headers).status_code == 200


def test_a_body_over_the_limit() -> None:
    client = Client(settings=ServerSettings(max_body_bytes=100))
    assert error_of(client.post(EMBEDDINGS, {"model": "pocket", "input": "x" * 100}), 413)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("fields", "text", "param"),
    [
        ({"temperature": 2.5}, "temperature: expected less than or equal to 2, found 2.5", "temperature"),
        ({"temperature": "hot"}, "temperature: expected a valid number, found 'hot'", "temperature"),
        ({"temperature": True}, "temperature: expected a valid number, found true", "temperature"),
        ({"max_tokens": 1.5}, "max_tokens: expected a valid integer, found 1.5", "max_tokens"),
        ({"max_tokens": 10**40}, "found a number of many digits", "max_tokens"),
        ({"n": 0}, "n: expected greater than or equal to 1, found 0", "n"),
        ({"seed": 2**64}, "seed: expected less than or equal to", "seed"),
        ({"stop": ["a"] * 65}, "stop: expected at most 64 items long, found a list of 65", "stop"),
        ({"stop": ["a" * 1001]}, "stop.0: expected at most 1000 characters long", "stop.0"),
        ({"stop": 5}, "stop: expected a valid list, found 5", "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias: expected an object with token ids as keys", "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5: expected less than or equal to 100, found 101", "logit_bias.5"),
        ({"logit_bias": {"99999": 1}}, "logit_bias: expected token ids below 32000, got 99999", "logit_bias"),
        ({"min_tokens": 5, "max_tokens": 2}, "min_tokens: expected at most max_tokens = 2", "min_tokens"),
        ({"messages": []}, "messages: expected at least 1 items, found a list of 0", "messages"),
        ({"messages": [{"role": "pirate"}]}, "messages.0.role: expected 'system'", "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: expected a valid string", None),
        ({"messages": HELLO * 20_000}, "messages: expected at most 16384 items long", "messages"),
        ({"stream": "yes"}, "stream: expected a valid boolean, found 'yes'", "stream"),
        ({"model": None}, "model: expected a valid string, found null", "model"),
    ],
)
def test_values_that_are_wrong(fields: dict[str, Any], text: str, param: str | None) -> None:
    engine = RealChecks(says("Hi"))
    body = error_of(Client(engine=engine).chat(**fields), 422)
    assert text in body["message"]
    assert len(body["message"]) < 300
    if param is not None:
        assert body["param"] == param


class RealChecks(FakeEngine):
    """The sampler's own checks, which the engine makes when a request is submitted."""

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> FakeJob:
        make_sampler(request.params, 32000, 2)
        return super().submit(request, deliver)


def test_null_is_not_given() -> None:
    names = (
        "temperature", "top_p", "top_k", "min_p", "max_tokens", "min_tokens", "seed", "random_seed", "stop", "n",
        "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "ignore_eos", "stream",
        "stream_options", "max_completion_tokens", "safe_prompt", "safe_mode", "logprobs", "top_logprobs",
        "prompt_logprobs", "response_format", "tools", "tool_choice", "parallel_tool_calls",
    )  # fmt: skip
    assert Client().chat(**dict.fromkeys(names)).status_code == 200


def test_unknown_models() -> None:
    body = error_of(Client().chat(model="gpt-4\ud800"), 404)
    assert body["code"] == "model_not_found"
    assert "gpt-4" in body["message"]


def test_unknown_paths_and_methods() -> None:
    assert "/v1/nothing" in error_of(Client().get("/v1/nothing"), 404)["message"]
    answer = Client().get(CHAT)
    assert "takes POST, not GET" in error_of(answer, 405)["message"]
    assert answer.headers["allow"] == "POST"


def test_too_long_for_the_context() -> None:
    """By characters alone, by tokens, and with what the answer is to have."""
    for content, max_tokens in (("a" * 17_000, None), ("a b " * 600, None), ("Hello", 1020)):
        fields = {"max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}
        body = error_of(Client().chat(**fields), 400)
        assert body["code"] == "context_length_exceeded"
        assert body["message"].startswith("This model's maximum context length is 1024 tokens.")


def test_a_full_queue_and_the_end() -> None:
    for stream in (False, True):
        client = Client(engine=FakeEngine(says("Hi"), refuses=OverloadError("full", retry_after_s=3)))
        answer = client.chat(stream=stream)
        assert error_of(answer, 429)["code"] == "queue_full"
        assert answer.headers["retry-after"] == "3"
        client = Client(engine=FakeEngine(says("Hi"), refuses=OverloadError("ending", is_draining=True)))
        assert error_of(client.chat(stream=stream), 503)["code"] == "draining"


def test_nothing_is_loaded() -> None:
    client = Client()
    client.serving.registry = None
    answer = client.chat()
    assert error_of(answer, 503)["code"] == "loading"
    assert answer.headers["retry-after"] == "5"
    assert error_of(client.get("/v1/models"), 503)["code"] == "loading"


def test_a_failure_while_answering() -> None:
    client = Client(plays(Failed(EngineError("the forward pass failed"))))
    assert error_of(client.chat(), 500)["type"] == "server_error"
    assert error_of(client.chat(stream=True), 500)["type"] == "server_error"  # nothing had been sent


def test_bugs_are_500(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("secret")

    client = Client()
    monkeypatch.setattr(client.engine, "submit", breaks)
    assert "secret" not in error_of(client.chat(), 500)["message"]
