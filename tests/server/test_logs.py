"""Lines: their fields, their formats, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request

from octuor.errors import ConfigError
from octuor.server.logs import configure, fields, redact, request_id
from server.http_client import Client
from server.live_server import chat

SECRET = "sk-abcd1234" + "Zz9" * 10 + "Zz"
LOGGERS = ("", "octuor", "uvicorn.error")


@pytest.fixture(scope="module")
def client() -> Client:
    made = Client()

    @made.app.get("/bug")
    async def bug(request: Request) -> None:
        raise ValueError(f"{request.headers['authorization']} {request.url}")

    return made


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is the process's: give it back as it was."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(logger.handlers), logger.level, list(logger.filters)) for logger in loggers]
    yield
    for logger, (handlers, level, filters) in zip(loggers, before, strict=True):
        logger.handlers, logger.filters = handlers, filters
        logger.setLevel(level)


class Log(io.StringIO):
    """Where lines go; a terminal if it says so."""

    is_terminal = False

    def isatty(self) -> bool:
        return self.is_terminal

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def json_log(level: str = "info") -> Log:
    log = Log()
    configure("json", level, log)
    return log


def test_a_request_is_one_line(client: Client) -> None:
    log = json_log()
    client.post("/v1/chat/completions", chat(stream=True), headers={"x-request-id": "r-1"})
    [line] = log.lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("total_s") >= line.pop("first_token_s") >= line.pop("queue_s") >= 0
    assert line == {
        "level": "info",
        "logger": "octuor.server.request",
        "message": "POST /v1/chat/completions 200",
        "request_id": "r-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "client": "127.0.0.1",
        "key": "local",
        "model": "pocket",
        "stream": True,
        "prompt_tokens": 9,
        "cached_tokens": 0,
        "completion_tokens": 2,
        "finish_reason": "stop",
    }


def test_the_line_of_a_refusal_says_which_field_but_not_what_was_in_it(client: Client) -> None:
    log = json_log()
    client.post("/v1/chat/completions", chat(temperature="my own words"), headers={"x-request-id": "r-1"})
    [line] = log.lines()
    assert (line["status"], line["error"], line["param"]) == (422, "invalid_request_error", "temperature")
    assert "my own words" not in log.getvalue()


def test_lines_of_people_have_the_same_fields(client: Client) -> None:
    log = Log()
    configure("text", "info", log)
    client.post("/v1/chat/completions", chat(), headers={"x-request-id": "r-1"})
    [line] = log.getvalue().splitlines()
    assert " POST /v1/chat/completions 200 request_id=r-1 " in line
    assert " completion_tokens=2 " in line


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_gets_text_and_a_pipe_json(is_terminal: bool) -> None:
    log = Log()
    log.is_terminal = is_terminal
    configure("auto", "info", log)
    logging.getLogger("octuor.test").info("hello", extra=fields(a=1, b="two words", c=None, d=""))
    assert log.getvalue().startswith("{") != is_terminal
    assert ('a=1 b="two words"\n' if is_terminal else '"a": 1, "b": "two words"}') in log.getvalue()


def test_probes_are_quiet(client: Client) -> None:
    log = json_log()
    for path in ("/health", "/health/live", "/metrics"):
        client.get(path)
    assert log.getvalue() == ""
    client.get("/nowhere")
    assert log.lines()[0]["status"] == 404
    log = json_log("debug")
    client.get("/health")
    assert log.lines()[0]["level"] == "debug"


def test_a_path_cannot_forge_a_line(client: Client) -> None:
    log = Log()
    configure("text", "info", log)
    client.get("/a%0a12:00:00 INFO ready%1b[2J")
    [line] = log.getvalue().splitlines()
    assert "/a\\n12:00:00" in line
    assert "\x1b" not in line


def test_keys_are_never_logged(client: Client) -> None:
    log = json_log("debug")
    headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
    client.get(f"/bug?key={SECRET}&token={SECRET}", headers=headers)
    client.post(f"/v1/chat/completions?api_key={SECRET}", chat(model=SECRET), headers=headers)
    client.get(f"/v1/models/{SECRET}", headers=headers)
    client.get(f"/{SECRET}", headers=headers | {"x-request-id": SECRET})
    assert SECRET[11:] not in log.getvalue()
    bug_line, *_ = log.lines()
    assert "ValueError" in bug_line["exception"]
    assert bug_line["request_id"].startswith("req-")
    assert len(log.lines()) == 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SECRET, "sk-abcd1234…"),
        (f"a {SECRET}, b", "a sk-abcd1234…, b"),
        ("Authorization: Bearer hf_abc.def-123=", "Authorization: Bearer …"),
        ("{'authorization': 'bearer xyz'}", "{'authorization': 'bearer …'}"),
        ("Basic dXNlcjpwYXNz", "Basic …"),
        ("task-abcd1234", "task-abcd1234"),
        ("nothing here", "nothing here"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_lines_from_inside_a_request_name_it() -> None:
    log = json_log()
    token = request_id.set("r-7")
    logging.getLogger("octuor.engine").warning("odd")
    request_id.reset(token)
    logging.getLogger("octuor.engine").warning("even")
    assert [line.get("request_id") for line in log.lines()] == ["r-7", None]


def test_libraries_are_heard_from_warnings_on() -> None:
    log = json_log("debug")
    logging.getLogger("httpx").info("no")
    logging.getLogger("httpx").warning("yes")
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing response.")
    assert [line["message"] for line in log.lines()] == ["yes"]


@pytest.mark.parametrize(("form", "level"), [("xml", "info"), ("json", "loud")])
def test_unknown_settings_are_refused(form: str, level: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        configure(form, level, Log())
