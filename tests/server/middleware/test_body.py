"""Bodies that are too large, too slow, too many."""

from __future__ import annotations

import json

import pytest

from octuor.server.limits import Limits
from octuor.server.settings import ServerSettings
from server.http_client import Client
from server.live_server import chat, head_and_body, live_server, read_all, until

SMALL = ServerSettings(max_body_bytes=1000)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: octuor\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/nowhere"])
def test_more_than_the_limit_is_413_on_every_path(path: str) -> None:
    answer = Client(settings=SMALL).request("POST", path, content=b"x" * 1001)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert answer.headers["connection"] == "close"


def test_413_on_tgi_paths_is_a_string() -> None:
    answer = Client(settings=SMALL).request("POST", "/generate", content=b"x" * 1001)
    assert answer.status_code == 413
    assert answer.json()["error_type"] == "validation"


def test_as_much_as_the_limit_is_read() -> None:
    body = json.dumps(chat()).encode().ljust(1000)
    answer = Client(settings=SMALL).request(
        "POST", "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200


def test_a_declared_length_is_refused_before_it_comes() -> None:
    with live_server(settings=SMALL) as live, live.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
        assert b" 413 " in connection.recv(65536)
        assert live.serving.in_progress == 1  # it lingers: the client may read while it still sends


def test_a_client_that_sends_all_before_it_reads_learns_why() -> None:
    """4 MB do not fit the kernel's buffers: without a reader at the other end the connection would be reset."""
    with live_server(settings=SMALL) as live:
        answer = live.say(HEAD + b"Content-Length: 4000000\r\n\r\n" + b"x" * 4_000_000)
        assert head_and_body(answer)[0] == 413


def test_chunks_are_counted() -> None:
    with live_server(settings=SMALL) as live:
        chunk = b"100\r\n" + b"x" * 256 + b"\r\n"
        status, headers, body = head_and_body(
            live.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n")
        )
    assert status == 413
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]["code"] == "body_too_large"


def test_bodies_that_do_not_come_are_408() -> None:
    settings = ServerSettings(limits=Limits(body_timeout_s=0.05))
    with live_server(settings=settings) as live, live.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        status, headers, body = head_and_body(read_all(connection))
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body)["error"]["code"] == "body_timeout"


def test_a_body_that_comes_fast_enough_has_more_time() -> None:
    limits = Limits(body_timeout_s=0.3, body_bytes_per_s=1)
    body = json.dumps(chat()).encode()
    with live_server(settings=ServerSettings(limits=limits)) as live, live.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body[:-1])
        until(lambda: live.serving.in_progress == 1, "the request to begin")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        connection.sendall(body[-1:])
        assert head_and_body(read_all(connection))[0] == 200


def test_bodies_of_all_requests_together_are_bounded_and_forgotten() -> None:
    limits = Limits(max_bodies_bytes=2000)
    body = json.dumps(chat()).encode().ljust(1500)
    request = HEAD + b"Content-Length: 1500\r\nConnection: close\r\n\r\n" + body
    with live_server(settings=ServerSettings(limits=limits)) as live:
        for _ in range(3):
            assert head_and_body(live.say(request))[0] == 200
        with live.connect() as slow:
            slow.sendall(request[:-1])
            until(lambda: live.serving.in_progress == 1, "the request to begin")
            status, headers, found = head_and_body(live.say(request))
            assert (status, headers["retry-after"]) == (429, "1")
            assert json.loads(found)["error"]["code"] == "busy"
            slow.sendall(request[-1:])
            assert head_and_body(read_all(slow))[0] == 200
