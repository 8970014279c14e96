"""Beginning and end: loading, draining, signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from command_line import environment, program
from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Event, Finish, Prefilled, Request, Step, TokenInfo
from octuor.errors import CheckpointError
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
from server.fake_engine import FakeEngine, says
from server.http_client import pocket
from server.live_server import DEADLINE_S, chat, head_and_body, live_server, raw_post, read_all, until


def says_when(go_on: threading.Event) -> FakeEngine:
    """An engine whose answers are "Hi", and " there" once the test lets them go on."""

    def script(request: Request) -> Iterator[Event]:  # noqa: ARG001
        yield Prefilled(0)
        yield Step(0, TokenInfo(1000), "Hi")
        go_on.wait(DEADLINE_S)
        yield Step(0, TokenInfo(1001), " there", Finish("stop"))

    return FakeEngine(script)


def test_running_streams_finish_and_nothing_new_is_taken() -> None:
    go_on = threading.Event()
    with live_server(says_when(go_on)) as live, live.connect() as stream, live.connect() as idle:
        idle.sendall(b"GET /health/ready HTTP/1.1\r\nHost: octuor\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        stream.sendall(raw_post("/v1/chat/completions", chat(stream=True)))
        until(lambda: b'"Hi"' in stream.recv(65536), "the first token")
        live.stop()
        until(lambda: live.serving.is_draining, "the end to begin")
        ready = live.get("/health/ready")
        assert (ready.status_code, ready.json()["status"], ready.headers["connection"]) == (503, "draining", "close")
        assert live.get("/health/live").status_code == 200
        refused = live.post("/v1/chat/completions", chat())
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert live.thread.is_alive()
        go_on.set()
        rest = read_all(stream)
        assert b" there" in rest
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        live.join()  # though `idle` is still connected
        read_all(idle)
        with pytest.raises(httpx.ConnectError):
            live.get("/health")


def test_what_takes_longer_than_the_limit_ends_with_an_error() -> None:
    engine = Engine(pocket(), EngineSettings(max_batch=4))
    engine.start()
    settings = ServerSettings(drain_timeout_s=0.1)
    with live_server(engine, settings) as live, live.connect() as stream, live.connect() as whole:
        stream.sendall(raw_post("/v1/chat/completions", chat(stream=True, min_tokens=900, max_tokens=900)))
        whole.sendall(raw_post("/v1/chat/completions", chat(min_tokens=900, max_tokens=900)))
        until(lambda: engine.stats().running == 2, "both to run")
        until(lambda: b'"content"' in stream.recv(65536), "the first token")
        live.stop()
        rest = read_all(stream)
        assert b'"error"' in rest
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        status, headers, _ = head_and_body(read_all(whole))
        assert (status, headers["connection"]) == (503, "close")
        live.join()
    assert engine.is_idle


def test_a_client_that_takes_nothing_does_not_hold_the_end() -> None:
    def much(request: Request) -> Iterator[Event]:  # noqa: ARG001
        yield Prefilled(0)
        for _ in range(1000):
            yield Step(0, TokenInfo(1000), "x" * 2000)

    settings = ServerSettings(drain_timeout_s=0.05)
    with live_server(FakeEngine(much), settings, send_bytes=4096) as live, live.connect(4096) as slow:
        slow.sendall(raw_post("/v1/chat/completions", chat(stream=True)))
        until(lambda: live.serving.in_progress == 1, "the request to begin")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("octuor.server.lifecycle.END_S", 0.1)
            live.stop()
            live.join()


def test_while_the_model_loads_requests_are_503() -> None:
    go_on = threading.Event()
    serving = Serving()

    def prepare() -> None:
        go_on.wait(DEADLINE_S)
        serving.registry = Registry([Served("pocket", pocket(), FakeEngine(says()))])

    with live_server(serving=serving, prepare=prepare) as live:
        assert live.get("/health/ready").json()["status"] == "loading"
        refused = live.post("/v1/chat/completions", chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
        assert live.get("/metrics").status_code == 200
        go_on.set()
        until(lambda: live.get("/health/ready").status_code == 200, "readiness")
        assert live.get("/v1/models").status_code == 200


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    def prepare() -> None:
        raise CheckpointError("no such file")

    with live_server(serving=Serving(), prepare=prepare) as live:
        live.join()
        assert isinstance(live.server.error, CheckpointError)


# ---- as a program ---------------------------------------------------------------------------------


class Program:
    """A server in another process; its log is read as it comes."""

    def __init__(self, command: list[str], home: Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), "OCTUOR_HOME": str(home), **variables},
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self.lines("listening on"), "a port")
        self.url = self.lines("listening on")[0]["message"].split()[-1]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The lines of the log whose message begins so."""
        found = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in found if line["message"].startswith(message)]

    def end(self) -> int:
        """The exit status, once there is one."""
        status = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status


@contextmanager
def running(command: list[str], home: Path, **variables: str) -> Iterator[Program]:
    """A server in another process, which is killed in the end if it has not ended."""
    server = Program(command, home, **variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.end()
        assert server.process.stderr is not None
        server.process.stderr.close()


SERVE = program("serve", "--port", 0, "--threads", 1, "--log-format", "json")
LOADS_FOR_EVER = """
import threading
from octuor.server.app import create_app
from octuor.server.lifecycle import run_server
from octuor.server.serving import Serving
from octuor.server.settings import ServerSettings
serving = Serving(settings=ServerSettings(port=0, log_format="json"))
raise SystemExit(run_server(create_app(serving), serving, serving.settings, threading.Event().wait))
"""


def test_sigterm_lets_a_stream_finish_and_exits_0(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_S)
        with running(SERVE, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as server:
            assert systemd.recv(100) == b"READY=1"
            body = chat(stream=True, max_tokens=150, min_tokens=150)
            with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=DEADLINE_S) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                server.process.send_signal(signal.SIGTERM)
                assert systemd.recv(100) == b"STOPPING=1"
                assert [line for line in lines if line][-1] == "data: [DONE]"
            assert server.end() == 0
    [ready] = server.lines("ready")
    assert (ready["models"], ready["level"]) == ("pocket", "info")
    [draining] = server.lines("draining: 1 requests")
    assert draining["signal"] == "SIGTERM"
    [line] = server.lines("POST")
    assert (line["completion_tokens"], line["finish_reason"], line["stream"]) == (150, "length", True)
    assert server.lines("stopped")
    assert {line["level"] for line in server.lines("")} == {"info"}


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running(SERVE, tmp_path) as server:
        until(lambda: server.lines("ready"), "readiness")
        body = chat(stream=True, max_tokens=900, min_tokens=900)
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=DEADLINE_S) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            server.process.send_signal(signal.SIGINT)
            until(lambda: server.lines("draining"), "the end to begin")
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 128 + signal.SIGINT


def test_a_signal_while_it_loads_ends_it(tmp_path: Path) -> None:
    with running([sys.executable, "-c", LOADS_FOR_EVER], tmp_path) as server:
        until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503, "an answer")
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
