"""The HTTP client against answers that no well-behaved server would give."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from fake_openai import DONE, Asked, FakeServer, answer_as_asked, head, piece, serving, whole
from octuor.bench.serve.answer import Answer, read_answer
from octuor.bench.serve.client import Client, connect, server_root
from octuor.bench.serve.exchange import Call, Exchange
from octuor.errors import BackendError, RequestError

CALL = Call(b'{"max_tokens": 3, "prompt": "a b"}')


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000/", "http://localhost:8000"),
        ("http://h/v1", "http://h"),
        ("https://h/api/v1/", "https://h/api"),
        ("http://h/v1/chat/completions", "http://h"),
        ("http://h/v1/completions", "http://h"),
        ("http://[::1]:80/v1", "http://[::1]:80"),
    ],
)
def test_addresses(url: str, root: str) -> None:
    assert server_root(url) == root


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "http:///v1", "http://h/?x=1", "a b"])
def test_no_addresses(url: str) -> None:
    with pytest.raises(RequestError, match="URL: expected such as http"):
        server_root(url)


def send(fake: FakeServer, *, timeout_s: float = 30.0, key: str | None = None) -> tuple[Exchange, Answer]:
    """One call of a completion, and what it came to."""

    async def main() -> Exchange:
        exchange = Exchange(CALL)
        async with serving(fake), connect(fake.url, "completions", key=key, timeout_s=timeout_s) as client:
            await client.send(exchange)
        return exchange

    exchange = asyncio.run(main())
    return exchange, read_answer(exchange)


def test_a_stream() -> None:
    fake = FakeServer()
    exchange, answer = send(fake, key="secret")
    assert (answer.error, answer.tokens, answer.prompt_tokens, answer.finish_reason) == ("", 3, 3, "length")
    assert exchange.sent_s <= exchange.times[0] <= exchange.times[-1] <= exchange.ended_s
    assert len(exchange.times) == len(exchange.chunks)
    assert not exchange.is_refused
    (asked,) = fake.asked
    assert (asked.path, asked.body) == ("/v1/completions", {"max_tokens": 3, "prompt": "a b"})
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["accept-encoding"] == "identity"


def test_times_are_those_of_arrival() -> None:
    """The server sends its second piece when the client has noted the first."""
    noted = asyncio.Event()

    async def slow(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a")
        await noted.wait()
        yield piece(" b", "stop") + DONE

    async def main() -> Exchange:
        exchange = Exchange(CALL)
        clock = itertools.count()
        async with serving(FakeServer(slow)) as fake, connect(fake.url, "completions") as client:
            client.clock = lambda: float(next(clock))
            sending = asyncio.create_task(client.send(exchange))
            while not exchange.times:
                await asyncio.sleep(0)
            noted.set()
            await sending
        return exchange

    exchange = asyncio.run(main())
    assert (exchange.sent_s, exchange.times, exchange.ended_s) == (0.0, [1.0, 2.0], 3.0)
    assert read_answer(exchange).text_s == (1.0, 2.0)


def test_too_many_requests_with_a_time_to_wait() -> None:
    async def full(_: Asked) -> AsyncIterator[bytes]:
        yield whole({"error": {"message": "queue full"}}, 429, Retry_After="7")

    exchange, answer = send(FakeServer(full))
    assert (answer.error, answer.detail, exchange.retry_after_s) == ("HTTP 429", "queue full", 7.0)


def test_a_date_to_wait_for_is_no_number_of_seconds() -> None:
    async def full(_: Asked) -> AsyncIterator[bytes]:
        yield whole({}, 503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")

    assert send(FakeServer(full))[0].retry_after_s == 0.0


def test_a_connection_that_breaks() -> None:
    async def breaks(_: Asked) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        yield b"%x\r\n%s\r\n" % (len(piece(" a")), piece(" a"))

    exchange, answer = send(FakeServer(breaks))
    assert (answer.error, answer.tokens) == ("broken stream", 1)
    assert exchange.failure == "broken stream"


def test_a_connection_that_ends_without_an_answer() -> None:
    async def silent(_: Asked) -> AsyncIterator[bytes]:
        for part in list[bytes]():
            yield part

    assert send(FakeServer(silent))[1].error == "broken stream"


def test_an_answer_that_is_no_http() -> None:
    async def nonsense(_: Asked) -> AsyncIterator[bytes]:
        yield b"SSH-2.0-OpenSSH_9.6\r\n\r\n"

    assert send(FakeServer(nonsense))[1].error == "broken stream"


def test_an_answer_that_is_no_stream() -> None:
    async def not_streamed(_: Asked) -> AsyncIterator[bytes]:
        yield whole({"choices": [{"text": "a"}]})

    assert send(FakeServer(not_streamed))[1].error == "not a stream"


def test_a_server_that_never_ends() -> None:
    async def endless(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a")
        await asyncio.Event().wait()

    _, answer = send(FakeServer(endless), timeout_s=0.2)
    assert (answer.error, answer.tokens) == ("timeout", 1)


def closed_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{closed_port()}"

    async def main() -> Exchange:
        exchange = Exchange(CALL)
        async with connect(url, "completions") as client:
            await client.send(exchange)
            with pytest.raises(RequestError, match=rf"{url}: expected an OpenAI-compatible server, found .*refused"):
                await client.ask("GET", "/v1/models")
        return exchange

    answer = read_answer(asyncio.run(main()))
    assert answer.error == "no connection"


def test_cancelled_calls_keep_what_came() -> None:
    async def endless(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a")
        await asyncio.Event().wait()

    async def main() -> Exchange:
        exchange = Exchange(CALL)
        async with serving(FakeServer(endless)) as fake, connect(fake.url, "completions") as client:
            sending = asyncio.create_task(client.send(exchange))
            while not exchange.chunks:
                await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        return exchange

    exchange = asyncio.run(main())
    assert exchange.is_cancelled
    assert exchange.ended_s >= exchange.times[0]
    assert read_answer(exchange).tokens == 1


def test_small_requests() -> None:
    async def main(client: Client) -> None:
        assert (await client.ask("GET", "/v1/models")).body["data"][0]["id"] == "fake-1"
        assert (await client.ask("POST", "/none", {})).status == 404
        assert (await client.ask("GET", "/text")).body is None

    async def run() -> None:
        fake = FakeServer(answer_as_asked, {"/text": lambda _: head(200, "text/html") + b"<html>"})
        async with serving(fake), connect(fake.url, "chat") as client:
            await main(client)

    asyncio.run(run())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "octuor.bench.serve.client")
    with pytest.raises(BackendError, match=r'expected the library aiohttp, found none; pip install "octuor\[bench\]"'):
        __import__("octuor.bench.serve.client")
