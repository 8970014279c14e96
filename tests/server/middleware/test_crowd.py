"""Requests at once."""

from __future__ import annotations

import threading

from octuor.engine.request import Prefilled
from octuor.server.limits import Limits
from octuor.server.settings import ServerSettings
from server.fake_engine import FakeEngine, plays
from server.live_server import chat, live_server, raw_post, until


def test_one_too_many_is_429_and_probes_pass() -> None:
    hold = threading.Event()
    settings = ServerSettings(limits=Limits(max_requests=2))
    with live_server(FakeEngine(plays(Prefilled(0), hold)), settings) as live:
        with live.connect() as one, live.connect() as two:
            for connection in (one, two):
                connection.sendall(raw_post("/v1/chat/completions", chat()))
            until(lambda: live.serving.in_progress == 2, "two requests")
            answer = live.post("/v1/chat/completions", chat())
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["error"]["code"] == "too_many_requests"
            assert live.post("/generate", {"inputs": "Hi"}).json()["error_type"] == "overloaded"
            assert live.get("/health").status_code == 200
            assert "octuor_http_requests_in_progress 3.0" in live.get("/metrics").text
        until(lambda: live.serving.in_progress == 0, "both to be over")
        assert live.get("/v1/models").status_code == 200
        hold.set()
