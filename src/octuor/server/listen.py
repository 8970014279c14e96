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

from octuor.engine.request import Event, Failed, FinishReason, Job, Pooled, Request, Step

AT_ONCE = 64  # requests of one caller that the engine has at a time; the others of a long list wait here


class Submits(Protocol):
    """What listening needs of an engine."""

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> Job:
        """Begin; deliver is called from another thread. Raises RequestError and OverloadError."""


class Listening:
    """The events of several requests, each with the place of its request; iterate once.

    jobs      of the requests that have been submitted, in their order
    finished  why each choice ended that has

    Iterating ends when all have, and raises what a Failed brings.
    """

    def __init__(self, engine: Submits, requests: Sequence[Request], at_once: int = AT_ONCE) -> None:
        self.jobs: list[Job] = []
        self.finished: list[FinishReason] = []
        self._engine = engine
        self._waiting = deque(requests)
        self._owed: list[int] = []  # choices, or vectors, that each submitted request still owes
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._wake = asyncio.Event()
        self._is_asleep = False
        while self._waiting and len(self.jobs) < at_once:
            self._submit()

    def cancel(self) -> None:
        """End those that have not ended."""
        self._waiting.clear()
        for job, n_owed in zip(self.jobs, self._owed, strict=True):
            if n_owed:
                job.cancel()

    def __aiter__(self) -> Listening:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        while not self._events:
            if not any(self._owed):
                raise StopAsyncIteration
            self._wake.clear()
            self._is_asleep = True
            if not self._events:  # one may have come between the two looks
                await self._wake.wait()
        place, event = self._events.popleft()
        if isinstance(event, Failed):
            self._owed[place] = 0
            raise event.error
        if isinstance(event, Step) and event.finish is not None:
            self.finished.append(event.finish.reason)
            self._owed[place] -= 1
        elif isinstance(event, Pooled):
            self._owed[place] -= 1
        if not self._owed[place] and self._waiting:
            self._submit()
        return place, event

    def _submit(self) -> None:
        request, place = self._waiting.popleft(), len(self.jobs)

        def deliver(event: Event) -> None:
            self._events.append((place, event))
            if self._is_asleep:  # else the event is seen before the next sleep
                self._is_asleep = False
                with suppress(RuntimeError):  # a loop that has closed has nobody left to tell
                    self._loop.call_soon_threadsafe(self._wake.set)

        self._owed.append(1 if request.pooled else request.n)
        try:
            self.jobs.append(self._engine.submit(request, deliver))
        except BaseException:
            self._owed.pop()
            self.cancel()
            raise


@asynccontextmanager
async def listen_all(
    engine: Submits, requests: Sequence[Request], *, at_once: int = AT_ONCE
) -> AsyncIterator[Listening]:
    """Submit requests; those that have not ended when it is left are cancelled.

    Raises what submit raises; then none of them runs on.
    """
    listening = Listening(engine, requests, at_once)
    try:
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
