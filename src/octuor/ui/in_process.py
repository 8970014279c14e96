"""The models of this process: a page's answer is a request like any that comes over HTTP.

The same keys and limits, the same accounts, metrics and log lines (under the path /ui/chat); it counts among the
requests that the server waits for before it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from octuor.accounts import LOCAL, Key
from octuor.engine.request import Request, Step, TokenInfo
from octuor.errors import OctuorError, UiError
from octuor.sampling import SamplingParams
from octuor.server.answering import Caller, answering
from octuor.server.errors import CLIENT_GONE, ApiError, as_api_error
from octuor.server.middleware.observe import choose_id
from octuor.server.prompts import ITEM, ChatPrompt, check_chars, check_room, encode_messages, encoded, with_system
from octuor.server.record import RequestRecord
from octuor.server.registry import Served
from octuor.server.serving import Serving
from octuor.tokenizer import Message, Tokenizer
from octuor.ui.backend import Ask, Delta, Done, ModelCard, Status, TokenSeen, User
from octuor.ui.standing import Standing

PATH = "/ui/chat"
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
            ModelCard(served.name, served.n_context, can_observe=False)
            for served in registry.models
            if served.model.checkpoint.tokenizer is not None and key.allows(served.name, *registry.aliases(served))
        ]

    async def chat(self, user: User, ask: Ask) -> AsyncGenerator[Delta | Done, None]:
        """See Backend. It is over, its accounts written down, before Done is handed out."""
        serving, record = self._serving, _record(user)
        serving.in_progress += 1
        serving.metrics.in_progress.inc()
        try:
            async with aclosing(self._answer(user, ask, record)) as parts:
                async for part in parts:
                    record.status = 200
                    yield part
        except Exception as error:
            if not isinstance(error, OctuorError | ApiError):
                logger.exception("unexpected error on %s", PATH)
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

    async def status(self, user: User) -> Status | None:
        """What /metrics shows, and the memory that it takes."""
        with _shown():
            self._key(user)
            return self._standing.now()

    async def _answer(self, user: User, ask: Ask, record: RequestRecord) -> AsyncGenerator[Delta | Done, None]:
        began = time.perf_counter()
        serving = self._serving
        if serving.in_progress > serving.settings.limits.max_requests:
            raise ApiError(429, "The server is busy; try again later", code="too_many_requests")
        caller = Caller(serving, self._key(user), record)
        record.key = caller.key.name
        served = caller.find(ask.model)
        prompt = await _prompt(served, ask)
        request = _request(served, ask, prompt, caller)
        async with answering(caller, served, [request]) as listening:
            async for _, event in listening:
                if isinstance(event, Step):
                    yield Delta(event.text, _seen(served.tokenizer, event.token))
        (job,) = listening.jobs
        yield Done(
            reason=listening.finished[0],
            prompt_tokens=job.prompt_tokens,
            completion_tokens=job.completion_tokens,
            seconds=job.finished_at - job.first_token_at,
            first_token_s=job.first_token_at - began,
        )

    def _key(self, user: User) -> Key:
        """Whose account it is. Raises AccountError where a key is needed and is not there, or no longer good."""
        return LOCAL if self._serving.accounts is None else self._serving.accounts.authenticate(user.key)


def _record(user: User) -> RequestRecord:
    return RequestRecord(
        request_id=choose_id(None),
        method="POST",
        path=PATH,
        route=PATH,
        client=user.client,
        is_stream=True,
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
        prompt.prompt, params, tenant=caller.key.id, is_chat=not prompt.prefix, name=caller.record.request_id
    )


def _seen(tokenizer: Tokenizer, token: TokenInfo | None) -> TokenSeen | None:
    if token is None:
        return None

    def piece(token_id: int) -> str:
        return tokenizer.piece_bytes(token_id).decode("utf-8", "replace")

    top = tuple((piece(token_id), logprob) for token_id, logprob in token.top)
    return TokenSeen(token.id, piece(token.id), token.logprob, top)


@contextmanager
def _shown() -> Iterator[None]:
    """Errors as the page shows them."""
    try:
        yield
    except (OctuorError, ApiError) as error:
        raise UiError(as_api_error(error).message) from error
