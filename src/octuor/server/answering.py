"""One request from leave to the last token: limits, the engine, the record, and the accounts.

async with answering(caller, served, requests) as listening:
    async for place, event in listening: ...
# here everything is accounted for, on disk: the end of the answer may be sent
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends
from fastapi import Request as HttpRequest

from octuor.accounts import Key, Outcome
from octuor.engine.request import Request
from octuor.server.auth import key_of
from octuor.server.listen import Listening
from octuor.server.record import RequestRecord, record_of
from octuor.server.registry import Served
from octuor.server.serving import Serving, serving_of


@dataclass(frozen=True)
class Caller:
    """One HTTP request's side of things: whose it is, and what is noted of it."""

    serving: Serving
    key: Key
    record: RequestRecord

    def find(self, name: str | None) -> Served:
        """The model of that name, or the default one, noted in the record. Raises ApiError 404 and 503."""
        served = self.serving.find(name)
        self.record.model, self.record.asked = served.name, served.name if name is None else name
        self.record.adapter = None if name is None else self.serving.models().adapter(name)
        return served


def caller_of(
    request: HttpRequest, serving: Annotated[Serving, Depends(serving_of)], key: Annotated[Key, Depends(key_of)]
) -> Caller:
    """The dependency: who calls."""
    return Caller(serving, key, record_of(request.scope))


@asynccontextmanager
async def answering(caller: Caller, served: Served, requests: Sequence[Request]) -> AsyncIterator[Listening]:
    """Submit requests that belong together, once the key's limits let them pass; account for them at the end.

    When it is left early, whatever runs is cancelled, and what it took is accounted for.

    Raises AccountError, RequestError, OverloadError.
    """
    record = caller.record
    n_prompt = sum(len(request.prompt.ids) for request in requests)
    admission = caller.serving.admit(caller.key, served, n_prompt)
    try:
        own = [replace(request, adapter=record.adapter) for request in requests]
        listening = Listening(served.engine, own)
    except BaseException:
        if admission is not None:
            admission.withdraw()
        raise
    record.jobs, record.finished = listening.jobs, listening.finished
    outcome: Outcome = "error"
    try:
        yield listening
        outcome = "ok"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    finally:
        listening.cancel()
        if admission is not None:
            written = admission.finish(
                completion_tokens=record.completion_tokens, cached_tokens=record.cached_tokens, outcome=outcome
            )
            if outcome == "ok":
                await asyncio.wrap_future(written)
