"""The page and the server that it is mounted into: keys, the other routes, the end, a proxy."""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_process import ServeProcess, octuor_at, serve_process
from server.http_client import HELLO
from ui.chromium import Chat, until
from ui.proxy import below

LINKS = "return [...document.querySelectorAll('a[href]')].map(e => e.href)"


def lines_of(server: ServeProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_the_servers_routes_are_as_they_were(server: ServeProcess) -> None:
    answer = server.post("/v1/chat/completions", {"model": "pocket", "messages": HELLO, "max_tokens": 3})
    assert answer["usage"]["completion_tokens"] == 3
    assert server.post("/", {"inputs": "Once", "parameters": {"max_new_tokens": 3}})[0]["generated_text"]
    assert json.loads(server.get("/health")) == {"status": "ok"}
    assert {card["id"] for card in json.loads(server.get("/v1/models"))["data"]} >= {"pocket", "endless"}
    assert "swagger" in server.get("/docs").lower()
    assert json.loads(server.get("/openapi.json"))["info"]["title"] == "Octuor"
    for path, status in (("/v1/chat/completions", 405), ("/v1/none", 404), ("/none", 404), ("/gradio_api/info", 404)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.get(path)
        with caught.value as error:
            assert error.code == status, path


def test_a_page_leaves_one_line_for_each_answer(server: ServeProcess, another: Callable[..., Chat]) -> None:
    before = len(lines_of(server))
    chat = another().open()
    chat.set("max-new-tokens", 4)
    chat.say("Hi.")
    chat.reload()
    asked = [line for line in lines_of(server)[before:] if line["logger"] == "octuor.server.request"]
    [line] = [line for line in asked if line["path"] != "/metrics"]
    assert (line["path"], line["status"], line["completion_tokens"], line["client"]) == (
        "/ui/chat",
        200,
        4,
        "127.0.0.1",
    )


def test_a_page_from_before_a_restart_is_told_so(server: ServeProcess) -> None:
    before = len(lines_of(server))
    assert '"session_not_found":true' in server.get("/gradio_api/queue/data?session_hash=before")
    assert [line for line in lines_of(server)[before:] if line["level"] not in ("info", "debug")] == []


def test_leaving_the_page_ends_its_answer(server: ServeProcess, another: Callable[..., Chat]) -> None:
    chat = another().open()
    chat.choose("endless")
    chat.set("max-new-tokens", 4000)
    chat.ask("Go on.")
    until(lambda: server.gauge("_num_requests_running") == 1, "an answer under way")
    chat.driver.get("about:blank")
    until(lambda: server.gauge("_num_requests_running") == 0, "the engine to be idle", 5.0)


# ---- keys ----------------------------------------------------------------------------------------


def test_where_there_are_keys_the_page_asks_for_one(tmp_path: Path, another: Callable[..., Chat]) -> None:
    with serve_process(tmp_path / "home", "--ui", "--log-format", "json") as server:
        key = server.key("ada")
        chat = another(server.url)

        def is_closed() -> bool:
            chat.driver.get(server.url)
            return bool(chat.all("#key"))

        until(is_closed, "the field for a key")  # the running server has seen that there are keys
        assert chat.all("#message") == []
        chat.one("#key").send_keys("sk-wrong")
        chat.click("#give-key")
        assert chat.one("[role='alert']").text
        chat.one("#key").send_keys(key)
        chat.click("#give-key")
        chat.loaded()
        assert key[11:] not in chat.driver.current_url
        assert key[11:] not in str(chat.driver.get_cookies())
        assert key[11:] not in chat.driver.page_source
        chat.set("max-new-tokens", 3)
        answer = chat.say("Hello, this is Ada.")
        assert chat.complaints() == [] or all("401" in line for line in chat.complaints())
        chat.reload()
        until(lambda: chat.answers == [answer], "the conversation again")

        elsewhere = another(server.url)
        elsewhere.driver.get(server.url)
        elsewhere.one("#key").send_keys(key)
        elsewhere.click("#give-key")
        elsewhere.loaded()
        assert elsewhere.titles() == ["Hello, this is Ada."]  # a key's conversations go where the key goes

        other = server.key("eve")
        stranger = another(server.url)
        stranger.driver.get(server.url)
        stranger.one("#key").send_keys(other)
        until(lambda: _given(stranger, other), "the second key to be known")
        assert stranger.loaded().titles() == []

        stranger.click("#forget-key")
        until(lambda: stranger.all("#key"), "the field for a key again")
        stranger.driver.get(server.url)
        assert (len(stranger.all("#key")), stranger.all("#message")) == (1, [])

        log = server.log.read_text()
        assert key[11:] not in log
        assert other[11:] not in log
        [line] = [line for line in lines_of(server) if line.get("path") == "/ui/chat"]
        assert (line["key"], line["completion_tokens"]) == ("ada", 3)
    assert "ada" in octuor_at(tmp_path / "home", "keys", "usage")


def _given(chat: Chat, key: str) -> bool:
    if chat.all("#key"):
        chat.type("#key", key)
        chat.click("#give-key")
    return bool(chat.all("#message"))


# ---- the end -------------------------------------------------------------------------------------


def test_open_pages_do_not_hold_up_the_end(endless: Path, tmp_path: Path, another: Callable[..., Chat]) -> None:
    """An answer that runs is finished, as any request's; pages that are merely open are not waited for."""
    with serve_process(tmp_path / "home", "--ui", "--config", str(endless), "--log-format", "json") as server:
        idle, chat = another(server.url).open(), another(server.url).open()
        idle.set("max-new-tokens", 3)
        idle.say("Hi.")
        chat.choose("endless")
        chat.set("max-new-tokens", 300)
        chat.ask("Go on.")
        until(lambda: server.gauge("_num_requests_running") == 1, "an answer under way")
        began = time.monotonic()
        assert server.stop() == 0
        print(f"\nended after {time.monotonic() - began:.1f} s")
        answered = [line for line in lines_of(server) if line.get("path") == "/ui/chat"]
        assert [line["finish_reason"] for line in answered] == ["length", "length"]
        assert answered[-1]["completion_tokens"] == 300
        ended = time.monotonic()
        assert ended - began < 30
        assert [line["message"] for line in lines_of(server) if line["level"] in ("warning", "error")] == []


def test_pages_that_are_open_end_with_the_server_at_once(tmp_path: Path, another: Callable[..., Chat]) -> None:
    with serve_process(tmp_path / "home", "--ui", "--log-format", "json") as server:
        another(server.url).open()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 6
        assert [line["message"] for line in lines_of(server) if line["level"] in ("warning", "error")] == []


# ---- a proxy -------------------------------------------------------------------------------------


def test_below_a_path_of_a_proxy_all_of_it_works(server: ServeProcess, another: Callable[..., Chat]) -> None:
    with below("/chat", server.url) as url:
        chat = another(url).open()
        chat.set("max-new-tokens", 8)
        answer = chat.say("Hello there.")
        assert chat.complaints() == []
        [link] = [found for found in chat.script(LINKS) if found.endswith(".json")]
        assert link.startswith(url)
        assert {found["path"] for found in chat.driver.get_cookies()} == {"/chat"}
        chat.reload()
        until(lambda: chat.answers == [answer], "the conversation again")


def test_what_a_proxy_says_of_itself_is_believed(server: ServeProcess) -> None:
    headers = {"x-forwarded-prefix": "/chat", "x-forwarded-proto": "https", "x-forwarded-host": "octuor.example"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        answer = client.get("/")
    assert '"root":"https://octuor.example/chat"' in answer.text.replace('": "', '":"')
    assert "Path=/chat" in answer.headers["set-cookie"]
    assert "Secure" in answer.headers["set-cookie"]
