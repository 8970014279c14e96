"""Servers beside each other: started with their settings, waited for, stopped whatever happens."""

from __future__ import annotations

import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

import servers
from engines.base import EngineError
from octuor.api import POCKET
from servers import LlamaServer, OctuorServer, parse_server, running

# answers 503 twice, as a server that is loading, then 200; takes the port as its argument
LOADING = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if Handler.asked > 2 else 503)
        self.end_headers()
        self.wfile.write(str(Handler.asked).encode())
    def log_message(self, *args):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Script:
    """A server made of a few lines of Python."""

    code: str
    name: str = "script"

    def command(self, port: int, streams: int, n_tokens: int) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-c", self.code, str(port)]

    def describe(self) -> str:
        return "a script"


def test_a_server_is_waited_for_and_stopped() -> None:
    with running(Script(LOADING), 1, 1) as url, urllib.request.urlopen(url) as answer:
        assert answer.read() == b"4"  # two that were refused and one that was not came before
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


def test_a_server_that_ends_says_its_last_words() -> None:
    with (
        pytest.raises(EngineError, match=r"script: ended with 3 before it was ready:\nno memory"),
        running(Script("import sys; print('no memory'); sys.exit(3)"), 1, 1),
    ):
        pass


def test_a_server_that_is_never_ready_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "READY_S", 0.5)
    with (
        pytest.raises(EngineError, match="expected it to be ready within"),
        running(Script("import time; time.sleep(60)"), 1, 1),
    ):
        pass


def test_a_server_that_does_not_listen_to_signals_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_S", 0.2)
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LOADING
    with running(Script(stubborn), 1, 1) as url:
        pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


def test_an_error_inside_stops_the_server() -> None:
    with pytest.raises(ZeroDivisionError), running(Script(LOADING), 1, 1) as url:
        raise ZeroDivisionError
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


def test_commands() -> None:
    ours = OctuorServer(POCKET, 2, ("--max-batch", "16"))
    assert ours.command(81, 8, 700)[1:] == [
        "-m", "octuor", "serve", str(POCKET), "--port", "81", "--threads", "2", "--max-batch", "16",
    ]  # fmt: skip
    assert POCKET.name in ours.describe()
    theirs = LlamaServer("llama", ["/x/llama-server", "--no-repack"], Path("m.gguf"), 2)
    words = theirs.command(81, 8, 700)
    assert words[:2] == ["/x/llama-server", "--no-repack"]
    options = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
    assert (options["-np"], options["-c"], options["-t"], options["-tb"]) == ("8", str(8 * 768), "2", "2")


def test_servers_on_the_command_line() -> None:
    assert parse_server("llama='/a b/llama-server' -fa on") == ("llama", ["/a b/llama-server", "-fa", "on"])
    for text in ("", "x", "a b=/x", "x="):
        with pytest.raises(EngineError, match="expected NAME=PATH FLAGS"):
            parse_server(text)
