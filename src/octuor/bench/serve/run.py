"""One row of a load test: requests sent by so many streams or at a rate; what came, and the client's own cost."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from octuor.bench.serve.exchange import NO_CONNECTION, Call, Exchange
from octuor.bench.serve.lengths import arrivals

TICK_S = 0.05  # how often the client looks whether it is late itself
TICKS_SHOWN = 5  # of them between two looks at progress
FIRST_PAUSE_S, LONGEST_PAUSE_S = (
    0.1,
    5.0,
)  # of a stream after failures in a row, without a Retry-After
DEAD = 5  # failures to connect in a row after which a stream gives up


class Sender(Protocol):
    """What a row needs of a client."""

    n_chunks: int
    clock: Callable[[], float]

    async def send(self, exchange: Exchange) -> None:
        """Send the exchange's call, note in it what comes; raise only when cancelled."""


@dataclass(frozen=True)
class Load:
    """How requests are sent. Exactly one of concurrency and rate, and one of requests and duration_s, is given.

    concurrency  streams, each sending its next request when the last has ended (a closed loop)
    rate         requests a second on average, at random times whatever the server does (an open loop)
    warmup       requests before, one after another, that are not counted
    """

    concurrency: int | None = None
    rate: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    warmup: int = 1

    def __str__(self) -> str:
        if self.concurrency is None:
            return f"{self.rate:g}/s"
        return f"{self.concurrency} stream" + "s" * (self.concurrency != 1)


@dataclass(frozen=True)
class Tick:
    """How far a row is. total None: it ends by time; is_warm: warm-up is over."""

    load: Load
    is_warm: bool
    done: int
    total: int | None
    failed: int
    elapsed_s: float
    n_chunks: int


@dataclass
class Overhead:
    """What the client itself took.

    cpu_s, wall_s  processor time of its process, and how long that was
    late_s         by how much it woke too late, in samples; what it measures is off by as much
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    n_chunks: int = 0
    late_s: list[float] = field(default_factory=list)


@dataclass
class Found:
    """A row's exchanges, in the order in which they were sent."""

    load: Load
    exchanges: list[Exchange] = field(default_factory=list)
    overhead: Overhead = field(default_factory=Overhead)


OnTick = Callable[[Tick], None]


async def run_row(
    client: Sender,
    calls: Iterator[Call],
    load: Load,
    rng: np.random.Generator,
    *,
    stop: asyncio.Event,
    on_tick: OnTick | None = None,
) -> Found:
    """Send a row's requests and wait for their answers.

    stop  when it is set, what is under way is cancelled and what there is comes back
    """
    row = _Row(client, calls, load, rng, on_tick)
    work = asyncio.create_task(row.run())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        work.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
    if not work.cancelled():
        work.result()
    return row.found


class _Row:
    """A row under way."""

    def __init__(
        self,
        client: Sender,
        calls: Iterator[Call],
        load: Load,
        rng: np.random.Generator,
        on_tick: OnTick | None,
    ) -> None:
        self.found = Found(load)
        self._client, self._calls, self._load, self._rng, self._on_tick = client, calls, load, rng, on_tick
        self._began = client.clock()
        self._is_warm = False
        self._done = self._failed = 0

    async def run(self) -> None:
        for call in itertools.islice(self._calls, self._load.warmup):
            await self._client.send(Exchange(call))
        self._is_warm = True
        self._began = self._client.clock()
        watch = asyncio.create_task(self._watch())
        try:
            if self._load.concurrency is not None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._load.concurrency):
                        group.create_task(self._stream())
            else:
                await self._arrive()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def _has_sent_all(self) -> bool:
        return self._load.requests is not None and len(self.found.exchanges) >= self._load.requests

    def _is_over(self) -> bool:
        """Whether a stream is to send no more requests."""
        duration_s = self._load.duration_s
        return self._has_sent_all() or (duration_s is not None and self._client.clock() - self._began >= duration_s)

    async def _stream(self) -> None:
        failures = 0
        while not self._is_over():
            exchange = self._next()
            await self._send(exchange)
            if not exchange.is_refused:
                failures = 0
                continue
            failures += 1
            if exchange.failure == NO_CONNECTION and failures == DEAD:
                return
            pause = exchange.retry_after_s or min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1))
            await asyncio.sleep(self._until_over(pause))

    def _until_over(self, pause: float) -> float:
        if self._load.duration_s is None:
            return pause
        return max(0.0, min(pause, self._began + self._load.duration_s - self._client.clock()))

    async def _arrive(self) -> None:
        assert self._load.rate is not None
        late = self.found.overhead.late_s
        async with asyncio.TaskGroup() as group:
            for at in arrivals(self._load.rate, self._rng):
                # by the time that was drawn: a client that is late itself sends no fewer requests
                if self._has_sent_all() or (self._load.duration_s is not None and at >= self._load.duration_s):
                    break
                await asyncio.sleep(max(0.0, self._began + at - self._client.clock()))
                late.append(max(0.0, self._client.clock() - self._began - at))
                group.create_task(self._send(self._next()))

    def _next(self) -> Exchange:
        exchange = Exchange(next(self._calls))
        self.found.exchanges.append(exchange)
        return exchange

    async def _send(self, exchange: Exchange) -> None:
        await self._client.send(exchange)
        self._done += 1
        self._failed += exchange.is_refused

    async def _watch(self) -> None:
        """Look in on the row until it is cancelled, and note what the client took."""
        overhead, client = self.found.overhead, self._client
        cpu_s, chunks = time.process_time(), client.n_chunks
        try:
            for n in itertools.count():
                due = client.clock() + TICK_S
                await asyncio.sleep(TICK_S)
                overhead.late_s.append(max(0.0, client.clock() - due))
                if n % TICKS_SHOWN == 0:
                    self._show(chunks)
        finally:
            overhead.cpu_s, overhead.wall_s = time.process_time() - cpu_s, client.clock() - self._began
            overhead.n_chunks = client.n_chunks - chunks
            self._show(chunks)

    def _show(self, chunks: int) -> None:
        if self._on_tick is not None:
            load, elapsed_s = self._load, self._client.clock() - self._began
            n_chunks = self._client.n_chunks - chunks
            self._on_tick(Tick(load, self._is_warm, self._done, load.requests, self._failed, elapsed_s, n_chunks))
