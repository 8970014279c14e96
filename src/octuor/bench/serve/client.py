"""The load test's side of HTTP, on aiohttp: a fourth of the time per piece that httpx takes, which counts where client
and server share a machine. What comes is noted with its time and read later.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from octuor.bench.serve.exchange import NO_CONNECTION, Exchange
from octuor.errors import BackendError, RequestError

try:
    import aiohttp
except ModuleNotFoundError as error:
    raise BackendError('bench serve: expected the library aiohttp, found none; pip install "octuor[bench]"') from error

ENDINGS = re.compile(r"(/v1)?(/chat)?(/completions)?/?$")  # of an address that was copied with a route
HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Content-Type": "application/json"}
ROUTES = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def server_root(url: str) -> str:
    """The part of an address before /v1. Raises RequestError."""
    full = url if "://" in url else f"http://{url}"
    if not re.fullmatch(r"https?://[^/\s?#]+[^\s?#]*", full):
        raise RequestError(f"URL: expected such as http://127.0.0.1:8000, found {url!r}")
    return ENDINGS.sub("", full)


@dataclass(frozen=True)
class Reply:
    """A whole answer to a small request; body None where it is not JSON."""

    status: int
    body: Any


class Client:
    """Connections to one server; made by `connect`."""

    def __init__(self, session: aiohttp.ClientSession, root: str, endpoint: str, clock: Callable[[], float]) -> None:
        self._session = session
        self._root = root
        self._url = root + ROUTES[endpoint]
        self.clock = clock
        self.n_chunks = 0  # pieces that have come so far, of all calls

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """One small request beside the load, its answer read whole. Raises RequestError where no server answers."""
        try:
            async with self._session.request(method, self._root + path, json=body) as response:
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise RequestError(
                f"{self._root}: expected an OpenAI-compatible server, found {_words(error)}; is it running?"
            ) from error
        try:
            return Reply(response.status, json.loads(data))
        except ValueError:
            return Reply(response.status, None)

    async def send(self, exchange: Exchange) -> None:
        """Send an exchange's call and note in it what comes, and what went wrong; raises only when it is cancelled."""
        exchange.sent_s = self.clock()
        try:
            async with self._session.post(self._url, data=exchange.call.body, headers=HEADERS) as response:
                exchange.status, exchange.content_type = response.status, response.content_type
                exchange.retry_after_s = _seconds(response.headers.get("Retry-After", ""))
                async for chunk in response.content.iter_any():
                    exchange.times.append(self.clock())
                    exchange.chunks.append(chunk)
                    self.n_chunks += 1
        except asyncio.CancelledError:
            exchange.is_cancelled = True
            raise
        except TimeoutError as error:
            exchange.failure, exchange.detail = "timeout", _words(error)
        except aiohttp.ClientConnectorError as error:
            exchange.failure, exchange.detail = NO_CONNECTION, _words(error)
        except (aiohttp.ClientError, OSError) as error:
            exchange.failure, exchange.detail = "broken stream", _words(error)
        finally:
            exchange.ended_s = self.clock()


@asynccontextmanager
async def connect(
    url: str, endpoint: str, *, key: str | None = None, timeout_s: float = 600.0
) -> AsyncIterator[Client]:
    """A client of the server at this address, for "chat" or "completions".

    timeout_s  of one request, from sending to its last byte

    Proxies of the environment are not used: they would be measured too. Raises RequestError on another address.
    """
    root = server_root(url)
    # A connection for each request: some servers close a connection after a stream without having said so, which a
    # client that wants to use it again sees too late.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        yield Client(session, root, endpoint, time.perf_counter)


def _seconds(header: str) -> float:
    """Of a Retry-After in seconds; 0.0 where there is none, or a date."""
    return float(header) if header.isascii() and header.isdigit() else 0.0


def _words(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:  # below: a name that is not known
        return f"{error.host}:{error.port}: {os.strerror(error.errno or 0)}"
    return str(error) or type(error).__name__
