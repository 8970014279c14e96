"""The page before the server: who answers what, how it ends, and where a proxy shows it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from octuor.server.limits import Limits
from octuor.server.settings import ServerSettings
from octuor.ui import mount
from server.http_client import HELLO
from ui.front import Fronted


def test_the_servers_routes_answer_as_without_the_page(tmp_path: Path) -> None:
    front = Fronted(tmp_path)
    answer = front.request("POST", "/v1/chat/completions", json={"model": "pocket", "messages": HELLO})
    assert answer.json()["choices"][0]["message"]["content"] == "Hi there"
    assert front.request("POST", "/", json={"inputs": "Hello"}).json()[0]["generated_text"]  # TGI's
    assert front.get("/health").json() == {"status": "ok"}
    assert front.get("/v1/models").json()["object"] == "list"
    assert "octuor_http_requests_total" in front.get("/metrics").text
    assert front.get("/docs").status_code == 200
    assert front.get("/v1/chat/completions").status_code == 405
    for path in ("/v1", "/nothing", "/v1/nothing", "/gradio", "/uix"):
        assert front.get(path).json()["error"], path
    assert front.asked == []


def test_the_page_answers_at_the_root(tmp_path: Path) -> None:
    front = Fronted(tmp_path)
    assert front.get("/").text.startswith("<html>")
    assert front.request("HEAD", "/").status_code == 200
    assert front.get("/assets/a.js").status_code == 200
    assert front.asked == ["/", "/", "/assets/a.js"]


def test_the_pages_requests_are_neither_logged_nor_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    front = Fronted(tmp_path)
    with caplog.at_level(logging.DEBUG, "octuor"):
        front.get("/")
        front.get("/static/a.css")
        front.request("POST", "/gradio_api/queue/join", json={})
    assert not caplog.records
    assert "http_requests_total{" not in front.serving.metrics.exposition("")[0].decode()


def test_a_bug_of_the_page_is_logged_and_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    front = Fronted(tmp_path)
    assert front.get("/assets/bug").status_code == 500
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("declared", [True, False])
def test_what_is_brought_in_has_a_limit(tmp_path: Path, declared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "MAX_UPLOAD", 1000 - 65_536)
    front = Fronted(tmp_path)
    body = b"x" * 1001

    async def parts() -> AsyncIterator[bytes]:
        yield body

    content = body if declared else parts()
    assert front.request("POST", "/gradio_api/upload", content=content).status_code == 413
    assert front.request("POST", "/gradio_api/upload", content=body[1:]).json()["n"] == 1000


def test_no_more_requests_than_the_limit(tmp_path: Path) -> None:
    front = Fronted(tmp_path, settings=ServerSettings(limits=Limits(max_requests=5)))

    async def run() -> None:
        limit = front.serving.settings.limits.max_requests
        streams = [asyncio.create_task(front.arequest("GET", "/gradio_api/queue/data")) for _ in range(limit)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while (await front.arequest("GET", "/assets/a.js")).status_code != 429:
                await asyncio.sleep(0.01)
        assert (await front.arequest("GET", "/health")).status_code == 200  # they are not the server's
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    asyncio.run(run())


# ---- the end -------------------------------------------------------------------------------------


def test_open_streams_end_once_the_server_drains_and_no_answer_is_under_way(tmp_path: Path) -> None:
    front = Fronted(tmp_path)

    async def run() -> None:
        stream = asyncio.create_task(front.arequest("GET", "/gradio_api/queue/data"))
        await asyncio.sleep(0)  # it has passed the gate
        front.serving.is_draining = True
        front.serving.in_progress = 1
        done, _ = await asyncio.wait({stream}, timeout=4 * mount.POLL_S)
        assert not done
        front.serving.in_progress = 0
        async with asyncio.timeout(10):
            answer = await stream
        assert answer.text.startswith("data: ALIVE")

    asyncio.run(run())


def test_a_stream_of_a_session_that_is_gone_ends_without_a_word_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = Fronted(tmp_path).get("/gradio_api/queue/data?session_hash=unknown")
    assert (answer.status_code, answer.text) == (200, "data: SESSION NOT FOUND\n\n")
    assert not caplog.records


def test_a_server_that_drains_takes_nothing_new(tmp_path: Path) -> None:
    front = Fronted(tmp_path)
    front.serving.is_draining = True
    answer = front.get("/")
    assert (answer.status_code, answer.text) == (
        503,
        "Octuor: This server is about to stop; ask another one, or this one later\n",
    )
    assert front.asked == []


def test_the_pages_lifespan_is_the_servers(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    front = Fronted(files)

    async def run() -> None:
        inbox, outbox = asyncio.Queue[dict[str, str]](), asyncio.Queue[dict[str, str]]()
        task = asyncio.create_task(front.app({"type": "lifespan"}, inbox.get, outbox.put))  # type: ignore[arg-type]
        await inbox.put({"type": "lifespan.startup"})
        assert (await outbox.get())["type"] == "lifespan.startup.complete"
        assert front.events == ["began"]
        await inbox.put({"type": "lifespan.shutdown"})
        await task

    asyncio.run(run())
    assert front.events == ["began", "ended"]
    assert not files.exists()


# ---- behind a proxy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "root"),
    [("/chat", "/chat"), ("/a/b/", "/a/b"), ("", ""), ("chat", ""), ("//evil.example", ""), ("/<script>", "")],
)
def test_a_proxy_says_where_it_shows_the_page(tmp_path: Path, given: str, root: str) -> None:
    answer = Fronted(tmp_path).get("/", headers={"x-forwarded-prefix": given})
    assert answer.text.endswith(f'src="a.js">{root}')
    assert f"Path={root or '/'};" in answer.headers["set-cookie"]
