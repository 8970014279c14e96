"""The models of any OpenAI-compatible address: Octuor elsewhere, vLLM, llama.cpp's server, Mistral's platform …"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from octuor.errors import ConfigError, UiError
from octuor.ui.backend import Ask, Delta, Done, ModelCard, Reason, Status, User
from octuor.ui.dialect import CONTINUATIONS, Dialect, Unprefixed, read_cards

ENDINGS = re.compile(r"(/chat)?(/completions)?/*$")  # of an address that was copied with a route
CONNECT_S = 10.0
SILENCE_S = 600.0  # a long prompt on a slow machine
MAX_SHOWN = 300  # characters of a server's own words
MAX_LINE = 4 << 20  # bytes of one event
REASONS: dict[str, Reason] = {"stop": "stop", "length": "length", "model_length": "length"}


def base_of(url: str) -> str:
    """The address that ends in /v1, or in whatever path was given in its place. Raises ConfigError."""
    full = url if "://" in url else f"http://{url}"
    if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", full):
        raise ConfigError(f"server: expected an address such as http://127.0.0.1:8000, found {url!r}")
    base = ENDINGS.sub("", full)
    return base if base.count("/") > 2 else f"{base}/v1"


class Address:
    """A Backend over HTTP. Used in one event loop; `close` ends its connections.

    url  with or without /v1
    key  of that server; None: it needs none
    """

    def __init__(self, url: str, key: str | None = None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.base = base_of(url)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S, pool=CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
            transport=transport,
        )
        self._dialects: dict[str, Dialect] = {}

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def models(self, user: User) -> Sequence[ModelCard]:  # noqa: ARG002 - the operator's key asks for all
        """As the address lists them."""
        with self._shown():
            response = await self._client.get(f"{self.base}/models")
            if response.status_code != 200:
                raise self._refused(response.status_code, response.content)
            cards = read_cards(_json(response.content))
        if not cards:
            raise UiError(f"{self.base}/models: expected a list of models, found none; is it OpenAI-compatible?")
        for name, _, owner in cards:
            self._dialect(name).continuation = CONTINUATIONS.get(owner)
        return [ModelCard(name, context, can_observe=False) for name, context, _ in cards]

    async def chat(self, user: User, ask: Ask) -> AsyncGenerator[Delta | Done, None]:
        """See Backend. The server counts the tokens; it is told to stop by the end of the connection."""
        if ask.continues and ask.model not in self._dialects:
            await self.models(user)  # who says how it goes on
        dialect = self._dialect(ask.model)
        began, first, last = time.perf_counter(), 0.0, 0.0
        seen = _Seen()
        text = Unprefixed(ask.messages[-1].content if ask.continues and dialect.continuation == "prefix" else "")
        with self._shown():
            async with self._opened(dialect, ask) as response, aclosing(_events(response)) as events:
                async for data in events:
                    piece = seen.read(data)
                    if piece:
                        last = time.perf_counter()
                        first = first or last
                        if fresh := text.push(piece):
                            yield Delta(fresh)
            if held := text.finish():
                yield Delta(held)
            if seen.reason is None:
                raise UiError(f"{self.base}: the answer broke off; ask again")
        yield Done(
            reason=seen.reason,
            prompt_tokens=seen.prompt_tokens,
            completion_tokens=seen.completion_tokens,
            seconds=last - first,
            first_token_s=(first or time.perf_counter()) - began,
            ignored=dialect.ignored(ask),
        )

    async def route(self, user: User, model: str, text: str) -> bytes | None:  # noqa: ARG002
        """None: no address tells."""
        return None

    async def status(self, user: User) -> Status | None:  # noqa: ARG002
        """None: addresses do not tell."""
        return None

    @asynccontextmanager
    async def _opened(self, dialect: Dialect, ask: Ask) -> AsyncIterator[httpx.Response]:
        """The stream of an answer, asked for in words that the server takes."""
        while True:
            body = dialect.body(ask)
            async with self._client.stream("POST", f"{self.base}/chat/completions", json=body) as response:
                if response.status_code == 200:
                    dialect.is_proven = True
                    yield response
                    return
                refusal = await response.aread()
            if response.status_code not in (400, 422) or not dialect.learn(body, refusal.decode("utf-8", "replace")):
                raise self._refused(response.status_code, refusal)

    def _dialect(self, model: str) -> Dialect:
        return self._dialects.setdefault(model, Dialect())

    def _refused(self, status: int, body: bytes) -> UiError:
        hint = "; give the server's key with --key" if status == 401 else ""
        return UiError(f"{self.base}: {status}: {_words(_json(body)) or 'no reason given'}{hint}")

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Errors of the network as the page shows them."""
        try:
            yield
        except httpx.ConnectError as error:
            raise UiError(f"{self.base}: no server answers there ({_short(str(error))}); is it running?") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            words = _short(str(error)) or type(error).__name__
            raise UiError(f"{self.base}: the connection broke ({words}); try again") from error


@dataclass
class _Seen:
    """What the events of an answer have told."""

    reason: Reason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def read(self, data: bytes) -> str:
        """Take in an event; the text that it adds. Raises UiError where it is an error."""
        event = _json(data)
        if not isinstance(event, dict):
            raise UiError(f"the server: expected events of JSON, found {_short(data.decode('utf-8', 'replace'))!r}")
        if event.get("error") and not event.get("choices"):
            raise UiError(f"the server: {_words(event)}")
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            self.completion_tokens = _count(usage.get("completion_tokens"))
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        choice = choices[0]
        if isinstance(finish := choice.get("finish_reason"), str) and finish:
            self.reason = REASONS.get(finish, "stop")
        delta = choice.get("delta")
        content = delta.get("content") if isinstance(delta, dict) else None
        return content if isinstance(content, str) else ""


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event up to [DONE]; comments and other fields are passed over."""
    pending, parts = b"", []
    async for chunk in response.aiter_bytes():
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > MAX_LINE:
            raise UiError("the server: expected server-sent events, found a line without an end")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                parts.append(line[5:].removeprefix(b" "))
            elif not line and parts:
                data, parts = b"\n".join(parts), []
                if data.strip() == b"[DONE]":
                    return
                yield data


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _words(body: Any) -> str:
    """What an error's body says, wherever its server puts it."""
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail", "msg") if body.get(key)), None)
        if isinstance(body, list) and body:
            body = body[0]
    return _short(body) if isinstance(body, str) else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 1] + "…"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
