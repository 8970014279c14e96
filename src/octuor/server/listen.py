"""From the engine's thread to asyncio: submit requests, iterate over their events, cancel when left early.

async with listen(engine, request) as events:
    async for event in events: ...
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

from octuor.engine.request import Event, Failed, Job, Pooled, Request, Step


class Submits(Protocol):
    """What listening needs of an engine."""

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> Job:
        """Begin; deliver is called from another thread. Raises RequestError and OverloadError."""


class Listening:
    """The events of several requests, each with the place of its request; iterate once.

    jobs  in the order of the requests

    Iterating ends when all have, and raises what a Failed brings.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._open: list[int] = []  # choices, or vectors, that each request still owes
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._wake = asyncio.Event()

    def submit(self, engine: Submits, request: Request) -> None:
        """One more request."""
        place = len(self.jobs)

        def deliver(event: Event) -> None:
            self._events.append((place, event))
            with suppress(RuntimeError):  # a loop that has closed has nobody left to tell
                self._loop.call_soon_threadsafe(self._wake.set)

        self.jobs.append(engine.submit(request, deliver))
        self._open.append(1 if request.pooled else request.n)

    def cancel(self) -> None:
        """End those that have not ended."""
        for job, n_open in zip(self.jobs, self._open, strict=True):
            if n_open:
                job.cancel()

    def __aiter__(self) -> Listening:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._events:
            if not any(self._open):
                raise StopAsyncIteration
            await self._next()
        place, event = self._events.popleft()
        if isinstance(event, Failed):
            self._open[place] = 0
            raise event.error
        if isinstance(event, Pooled) or (isinstance(event, Step) and event.finish is not None):
            self._open[place] -= 1
        return place, event

    async def _next(self) -> None:
        while not self._events:
            self._wake.clear()
            if not self._events:  # one may have come between the two looks
                await self._wake.wait()


@asynccontextmanager
async def listen_all(engine: Submits, requests: Sequence[Request]) -> AsyncIterator[Listening]:
    """Submit requests together; those that have not ended when it is left are cancelled.

    Raises what submit raises; then none of them runs on.
    """
    listening = Listening()
    try:
        for request in requests:
            listening.submit(engine, request)
        yield listening
    finally:
        listening.cancel()


@asynccontextmanager
async def _listen(engine: Submits, request: Request) -> AsyncIterator[AsyncIterator[Event]]:
    async with listen_all(engine, [request]) as listening:
        yield (event async for _, event in listening)


def listen(engine: Submits, request: Request) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
    """Submit one request and iterate over its events; see Listening."""
    return _listen(engine, request)
