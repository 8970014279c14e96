"""Heads, framing and silence, on real connections."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from octuor.server.limits import Limits
from octuor.server.settings import ServerSettings
from server.live_server import Live, chat, head_and_body, live_server, raw_post, read_all, until

LIMITS = Limits(max_head_bytes=4096, max_headers=20, head_timeout_s=5.0)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: octuor\r\nContent-Type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: octuor\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# What a smuggled request would be: were it seen, its answer would be the second one.
SMUGGLED = b"GET /health/live HTTP/1.1\r\nHost: octuor\r\n\r\n"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with live_server(settings=ServerSettings(limits=LIMITS)) as running:
        yield running


AMBIGUOUS = {
    "length and chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding before chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding after chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a coding behind a tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": GET + b"X-A: a\r\n b\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a blank before the first header": b"GET /health HTTP/1.1\r\n Host: octuor\r\n\r\n",
    "lines without CR": GET.replace(b"\r\n", b"\n") + b"\n",
    "a CR in a line": b"GET /health HTTP/1.1\r\nHost: octuor\rX-A: b\r\n\r\n",
    "a NUL": GET + b"X-A: a\x00b\r\n\r\n",
    "a header without a name": GET + b": a\r\n\r\n",
    "a line without a colon": GET + b"foo\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: other\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/1.2": GET.replace(b"1.1", b"1.2") + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": GET.replace(b"GET", b"FETCH") + b"\r\n",
    "a tunnel": b"CONNECT octuor:80 HTTP/1.1\r\nHost: octuor:80\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a size that is no number": CHUNKED + b"zz\r\n\r\n",
    "a negative size": CHUNKED + b"-1\r\n\r\n",
    "a size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\n\r\n",
    "more than the size": CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
    "sizes without CR": CHUNKED + b"5\nhello\n0\n\n",
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(live: Live, data: bytes) -> None:
    answer = live.say(data + SMUGGLED)
    status, headers, body = head_and_body(answer)
    assert 400 <= status < 600
    assert status not in (401, 404, 422, 500)
    assert headers["connection"] == "close"
    assert answer.count(b"HTTP/1.1 ") == 1
    found = json.loads(body)
    assert found["object"] == "error"
    assert found["error"]["message"] == found["message"]
    until(lambda: any(record.request_id == headers["x-request-id"] for record in live.records), "a line in the log")


def test_errors_of_framing_on_tgi_paths_are_strings(live: Live) -> None:
    status, _, body = head_and_body(live.say(b"POST /generate HTTP/1.1\r\n\r\n"))
    assert status == 400
    assert json.loads(body)["error_type"] == "validation"


@pytest.mark.parametrize(
    "data",
    [
        GET + b"X-A: " + b"a" * 5000 + b"\r\n\r\n",
        GET + b"".join(b"X-%d: a\r\n" % i for i in range(30)) + b"\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: octuor\r\n\r\n",
    ],
    ids=["long", "many", "target"],
)
def test_large_heads_are_431(live: Live, data: bytes) -> None:
    assert head_and_body(live.say(data))[0] == 431


def test_a_head_without_end_is_431_before_it_fills_memory(live: Live) -> None:
    with live.connect() as connection:
        connection.sendall(GET + b"X-A: ")
        answer = b""
        for _ in range(1000):
            try:
                connection.sendall(b"a" * 1000)
            except OSError:  # closed
                break
        answer = read_all(connection)
    assert head_and_body(answer)[0] == 431


def test_trailers_are_no_headers(live: Live) -> None:
    body = json.dumps(chat()).encode()
    chunks = b"%x\r\n%b\r\n0\r\nX-Request-Id: smuggled\r\n\r\n" % (len(body), body)
    status, headers, _ = head_and_body(
        live.say(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunks)
    )
    assert status == 200
    assert headers["x-request-id"] != "smuggled"


def test_trailers_have_limits_too(live: Live) -> None:
    trailers = b"".join(b"X-%d: a\r\n" % i for i in range(5000))
    with live.connect() as connection:
        connection.sendall(CHUNKED + b"0\r\n" + trailers)
        assert b" 431 " in read_all(connection).partition(b"\r\n")[0]


def test_an_offer_of_http2_is_passed_over_with_the_body_kept(live: Live) -> None:
    """As Java's client makes it, with the body in a second packet."""
    request = raw_post(
        "/v1/chat/completions",
        chat(),
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
    )
    head, _, body = request.partition(b"\r\n\r\n")
    with live.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        until(lambda: live.server.server_state.tasks, "the request to begin")
        connection.sendall(body + GET + b"Connection: close\r\n\r\n")
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert b'"content":"Hi there"' in answer


def test_requests_of_one_connection_are_answered_in_order(live: Live) -> None:
    answer = live.say(raw_post("/v1/chat/completions", chat()) + GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.index(b"Hi there") < answer.index(b'"status":"ok"')


def test_heads_that_come_slowly_end_their_connection() -> None:
    settings = ServerSettings(limits=Limits(head_timeout_s=0.1))
    with live_server(settings=settings) as live, live.connect() as silent, live.connect() as slow:
        slow.sendall(GET)
        assert head_and_body(read_all(slow))[0] == 408
        assert read_all(silent) == b""
        until(lambda: not live.server.server_state.connections, "no connection to be left")
        assert live.get("/health").status_code == 200


def test_a_second_request_has_as_much_time_as_the_first() -> None:
    settings = ServerSettings(limits=Limits(head_timeout_s=0.2))
    with live_server(settings=settings) as live, live.connect() as connection:
        connection.sendall(GET + b"\r\n")
        assert b"200" in connection.recv(1000)
        connection.sendall(GET[:10])
        assert head_and_body(read_all(connection))[0] == 408


def test_a_body_that_nobody_wants_has_to_end() -> None:
    settings = ServerSettings(limits=Limits(head_timeout_s=0.1))
    with live_server(settings=settings) as live, live.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: octuor\r\nContent-Length: 10\r\n\r\n{")
        assert head_and_body(read_all(connection))[0] == 200


def test_idle_connections_are_closed() -> None:
    settings = ServerSettings(limits=Limits(keep_alive_s=1))
    with live_server(settings=settings) as live, live.connect() as connection:
        connection.sendall(GET + b"\r\n")
        assert head_and_body(read_all(connection))[0] == 200


def test_too_many_connections_are_429() -> None:
    settings = ServerSettings(limits=Limits(max_connections=2))
    with live_server(settings=settings) as live, live.connect(), live.connect():
        until(lambda: len(live.server.server_state.connections) == 2, "two connections")
        with live.connect() as third:
            status, headers, _ = head_and_body(read_all(third))
        assert (status, headers["retry-after"]) == (429, "1")
