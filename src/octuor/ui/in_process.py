"""The models of this process: a page's answer is a request like any that comes over HTTP.

The same keys and limits, the same accounts, metrics and log lines (under the paths /ui/chat and /ui/route); it counts
among the requests that the server waits for before it ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager

from octuor.accounts import LOCAL, Key
from octuor.engine.request import Event, Prefilled, Request, Step, TokenInfo
from octuor.errors import OctuorError, UiError
from octuor.routing import Recording
from octuor.sampling import SamplingParams
from octuor.server.answering import Caller, answering
from octuor.server.errors import CLIENT_GONE, ApiError, as_api_error
from octuor.server.middleware.observe import choose_id
from octuor.server.prompts import (
    ITEM,
    ChatPrompt,
    check_chars,
    check_room,
    encode_messages,
    encoded,
    text_prompts,
    with_system,
)
from octuor.server.record import RequestRecord
from octuor.server.registry import Served
from octuor.server.serving import Serving
from octuor.tokenizer import Message
from octuor.ui.backend import Ask, Delta, Done, ModelCard, Status, TokenSeen, User
from octuor.ui.standing import Standing

PATH = "/ui/chat"
ROUTE_PATH = "/ui/route"
ALTERNATIVES = 5  # likely tokens told beside each one

logger = logging.getLogger(__name__)


class InProcess:
    """A Backend over the server's own state."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._standing = Standing(serving)

    async def models(self, user: User) -> Sequence[ModelCard]:
        """The loaded models that speak and that the user's key allows."""
        with _shown():
            key, registry = self._key(user), self._serving.models()
        return [
            ModelCard(served.name, served.n_context, can_observe=_can_observe(served))
            for served in registry.models
            if served.model.checkpoint.tokenizer is not None and key.allows(served.name, *registry.aliases(served))
        ]

    async def chat(self, user: User, ask: Ask) -> AsyncGenerator[Delta | Done, None]:
        """See Backend. It is over, its accounts written down, before Done is handed out."""
        record = _record(user, PATH, is_stream=True)
        async with self._noted(record), aclosing(self._answer(user, ask, record)) as parts:
            async for part in parts:
                record.status = 200
                yield part

    async def route(self, user: User, model: str, text: str) -> bytes | None:
        """See Backend. It is a request like any other: limited, scheduled beside others' answers, accounted for."""
        with _shown():
            if not _can_observe(self._serving.find(model)):
                return None
        record = _record(user, ROUTE_PATH, is_stream=False)
        async with self._noted(record):
            found = await self._routed(user, model, text, record)
            record.status = 200
        return found

    async def status(self, user: User) -> Status | None:
        """What /metrics shows, and the memory that it takes."""
        with _shown():
            self._key(user)
            return self._standing.now()

    @asynccontextmanager
    async def _noted(self, record: RequestRecord) -> AsyncIterator[None]:
        """While it is entered, a request is under way; its end is told to those who listen."""
        serving = self._serving
        serving.in_progress += 1
        serving.metrics.in_progress.inc()
        try:
            yield
        except Exception as error:
            if not isinstance(error, OctuorError | ApiError):
                logger.exception("unexpected error on %s", record.path)
            record.error = as_api_error(error)
            record.status = record.status or record.error.status_code
            raise UiError(record.error.message) from error
        finally:
            if record.error is None and not record.finished:  # the page turned away, or its reader did
                record.is_client_gone = True
                record.status = record.status or CLIENT_GONE
            serving.in_progress -= 1
            serving.metrics.in_progress.dec()
            serving.finished(record)

    def _caller(self, user: User, record: RequestRecord) -> Caller:
        """Whose request it is. Raises ApiError 429 where there are too many."""
        serving = self._serving
        if serving.in_progress > serving.settings.limits.max_requests:
            raise ApiError(429, "The server is busy; try again later", code="too_many_requests")
        caller = Caller(serving, self._key(user), record)
        record.key = caller.key.name
        return caller

    async def _answer(self, user: User, ask: Ask, record: RequestRecord) -> AsyncGenerator[Delta | Done, None]:
        began = time.perf_counter()
        caller = self._caller(user, record)
        served = caller.find(ask.model)
        prompt = await _prompt(served, ask)
        request = _request(served, ask, prompt, caller)
        seen = Seen(served, request)
        async with answering(caller, served, [request]) as listening:
            async for _, event in listening:
                seen.take(event)
                if isinstance(event, Step):
                    yield Delta(event.text, seen.token(event.token))
        (job,) = listening.jobs
        yield Done(
            reason=listening.finished[0],
            prompt_tokens=job.prompt_tokens,
            completion_tokens=job.completion_tokens,
            seconds=job.finished_at - job.first_token_at,
            first_token_s=job.first_token_at - began,
            routing=await asyncio.to_thread(seen.routing),
        )

    async def _routed(self, user: User, model: str, text: str, record: RequestRecord) -> bytes | None:
        caller = self._caller(user, record)
        served = caller.find(model)
        [prompt] = await text_prompts(served, [text], "text")
        check_room(served, len(prompt.ids), 0, "text")
        request = Request(
            prompt,
            SamplingParams(max_tokens=0),
            tenant=caller.key.id,
            prompt_logprobs=ALTERNATIVES,
            routes=True,
            name=record.request_id,
        )
        seen = Seen(served, request)
        async with answering(caller, served, [request]) as listening:
            async for _, event in listening:
                seen.take(event)
        return await asyncio.to_thread(seen.routing)

    def _key(self, user: User) -> Key:
        """Whose account it is. Raises AccountError where a key is needed and is not there, or no longer good."""
        return LOCAL if self._serving.accounts is None else self._serving.accounts.authenticate(user.key)


def _record(user: User, path: str, *, is_stream: bool) -> RequestRecord:
    return RequestRecord(
        request_id=choose_id(None), method="POST", path=path, route=path, client=user.client, is_stream=is_stream
    )


async def _prompt(served: Served, ask: Ask) -> ChatPrompt:
    if ask.continues != (bool(ask.messages) and ask.messages[-1].role == "assistant"):
        raise ApiError(400, "messages: expected the user's message last, or the assistant's to be continued")
    messages = [
        Message(said.role, said.content, prefix=ask.continues and place == len(ask.messages))
        for place, said in enumerate(ask.messages, start=1)
    ]
    messages = with_system(messages, ask.settings.system.strip())
    n_chars = sum(len(message.content) for message in messages)
    check_chars(served, n_chars, "messages")
    return await encoded(n_chars + ITEM * len(messages), lambda: encode_messages(served.tokenizer, messages))


def _request(served: Served, ask: Ask, prompt: ChatPrompt, caller: Caller) -> Request:
    settings = ask.settings
    room = check_room(served, len(prompt.prompt.ids), None, "messages")
    params = SamplingParams(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        max_tokens=min(settings.max_new_tokens, room),
        seed=settings.seed,
        logprobs=ALTERNATIVES,
    )
    return Request(
        prompt.prompt,
        params,
        tenant=caller.key.id,
        is_chat=not prompt.prefix,
        routes=_can_observe(served),
        name=caller.record.request_id,
    )


def _can_observe(served: Served) -> bool:
    return not served.model.config.is_dense


class Seen:
    """What an answer's events tell beside its text: its tokens, and the experts that played each."""

    def __init__(self, served: Served, request: Request) -> None:
        self._tokenizer = served.tokenizer
        self._ids = request.prompt.ids
        self._recording = Recording(served.model.config.n_experts, served.tokenizer) if request.routes else None

    def take(self, event: Event) -> None:
        """Note what is known of the routes."""
        recording = self._recording
        if recording is None or not isinstance(event, Prefilled | Step):
            return
        if isinstance(event, Prefilled):
            for token in event.prompt or map(TokenInfo, self._ids[event.cached_tokens :]):
                recording.add_token(token.id, token.logprob, token.top)
        elif event.token is not None:
            recording.add_token(event.token.id, event.token.logprob, event.token.top)
        if event.routes is not None:
            recording.add_routes(event.routes)

    def token(self, token: TokenInfo | None) -> TokenSeen | None:
        """A token as the page sees it."""
        if token is None:
            return None
        top = tuple((self._piece(token_id), logprob) for token_id, logprob in token.top)
        return TokenSeen(token.id, self._piece(token.id), token.logprob, top)

    def routing(self) -> bytes | None:
        """Of the tokens that were computed for this answer; None where none were, or nothing was recorded."""
        if self._recording is None or not self._recording.has_routes:
            return None
        return self._recording.routing().to_bytes()

    def _piece(self, token_id: int) -> str:
        return self._tokenizer.piece_bytes(token_id).decode("utf-8", "replace")


@contextmanager
def _shown() -> Iterator[None]:
    """Errors as the page shows them."""
    try:
        yield
    except (OctuorError, ApiError) as error:
        raise UiError(as_api_error(error).message) from error
