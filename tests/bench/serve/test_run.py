"""Rows: how many requests are under way, when they end, what the client notes about itself; no network."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest

from octuor.bench.serve import run as module
from octuor.bench.serve.exchange import NO_CONNECTION, Call, Exchange
from octuor.bench.serve.lengths import arrivals
from octuor.bench.serve.run import DEAD, Found, Load, Tick, run_row


class FakeClient:
    """Ends a call when `work`, given the call's number, does; notes how many are under way."""

    def __init__(self, work: Callable[[int], Awaitable[None]] | None = None, status: int = 200) -> None:
        self.n_chunks = 0
        self.clock = time.perf_counter
        self.at_once = self.most_at_once = self.sent = 0
        self._work, self._status = work, status
        self.failure, self.retry_after_s = "", 0.0

    async def send(self, exchange: Exchange) -> None:
        number, self.sent = self.sent, self.sent + 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        exchange.sent_s = self.clock()
        try:
            await asyncio.sleep(0)
            if self._work is not None:
                await self._work(number)
            exchange.status, exchange.failure, exchange.retry_after_s = self._status, self.failure, self.retry_after_s
            self.n_chunks += 1
        except asyncio.CancelledError:
            exchange.is_cancelled = True
            raise
        finally:
            self.at_once -= 1
            exchange.ended_s = self.clock()


def calls() -> Iterator[Call]:
    return (Call(str(n).encode()) for n in itertools.count())


def run(client: FakeClient, load: Load, stop: asyncio.Event | None = None, ticks: list[Tick] | None = None) -> Found:
    async def main() -> Found:
        on_tick = None if ticks is None else ticks.append
        rng = np.random.default_rng(0)
        return await run_row(client, calls(), load, rng, stop=stop or asyncio.Event(), on_tick=on_tick)

    return asyncio.run(main())


@pytest.mark.parametrize(("streams", "requests"), [(1, 5), (4, 12), (8, 3)])
def test_a_closed_loop_keeps_its_streams_busy(streams: int, requests: int) -> None:
    client = FakeClient()
    found = run(client, Load(streams, requests=requests, warmup=0))
    assert [exchange.call.body for exchange in found.exchanges] == [str(n).encode() for n in range(requests)]
    assert client.most_at_once == min(streams, requests)
    assert all(exchange.status == 200 for exchange in found.exchanges)


def test_warm_up_is_sent_first_and_not_counted() -> None:
    client = FakeClient()
    found = run(client, Load(2, requests=4, warmup=3))
    assert client.sent == 7
    assert [exchange.call.body for exchange in found.exchanges] == [b"3", b"4", b"5", b"6"]


def test_a_row_ends_by_time_and_waits_for_what_is_under_way() -> None:
    began = time.perf_counter()
    found = run(FakeClient(lambda _: asyncio.sleep(0.02)), Load(2, duration_s=0.1, warmup=0))
    assert time.perf_counter() - began >= 0.1
    assert all(exchange.status == 200 and exchange.sent_s - began < 5 for exchange in found.exchanges)
    assert max(exchange.ended_s for exchange in found.exchanges) - began >= 0.1
    assert found.overhead.wall_s >= 0.1
    assert found.overhead.late_s


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """No request ends before the last is sent."""
    last = asyncio.Event()

    async def work(number: int) -> None:
        if number == 9:
            last.set()
        await last.wait()

    client = FakeClient(work)
    found = run(client, Load(rate=500.0, requests=10, warmup=0))
    assert client.most_at_once == len(found.exchanges) == 10
    sent = [exchange.sent_s for exchange in found.exchanges]
    assert sent == sorted(sent)
    assert sent[-1] - sent[0] > 0


def test_an_open_loop_ends_by_time() -> None:
    rng, rate, seconds = np.random.default_rng(0), 200.0, 0.1
    expected = len(list(itertools.takewhile(lambda at: at < seconds, arrivals(rate, rng))))
    assert len(run(FakeClient(), Load(rate=rate, duration_s=seconds, warmup=0)).exchanges) == expected > 5


def test_stopping_cancels_what_is_under_way() -> None:
    for load in (
        Load(3, requests=30, warmup=0),
        Load(rate=1000.0, requests=30, warmup=0),
        Load(2, requests=4, warmup=9),
    ):
        stop = asyncio.Event()

        async def work(number: int, stop: asyncio.Event = stop) -> None:
            if number == 5:
                stop.set()
            if number >= 3:
                await asyncio.Event().wait()
            if number == 2:  # of a closed loop, two streams go on to calls that never end
                stop.set()

        found = run(FakeClient(work), load, stop)
        assert len(found.exchanges) < 30
        assert all(exchange.is_cancelled or exchange.status == 200 for exchange in found.exchanges)


class Pauses:
    """asyncio.sleep for the module under test: notes pauses and does not take them; ticks wait for ever."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        if seconds == module.TICK_S:
            await asyncio.Event().wait()
        self.taken.append(seconds)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    found = Pauses()

    class Shim:
        def __getattr__(self, name: str) -> object:
            return found if name == "sleep" else getattr(asyncio, name)

    monkeypatch.setattr(module, "asyncio", Shim())
    return found


def test_a_stream_pauses_after_failures(pauses: Pauses) -> None:
    run(FakeClient(status=500), Load(1, requests=8, warmup=0))
    assert pauses.taken == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_a_stream_waits_as_long_as_the_server_says(pauses: Pauses) -> None:
    client = FakeClient(status=429)
    client.retry_after_s = 7.0
    run(client, Load(1, requests=3, warmup=0))
    assert pauses.taken == [7.0, 7.0, 7.0]


def test_a_pause_ends_with_the_row(pauses: Pauses) -> None:
    client = FakeClient(status=429)
    client.retry_after_s = 7.0
    clock = itertools.count()
    client.clock = lambda: next(clock) * 0.5
    found = run(client, Load(1, duration_s=4.0, warmup=0))
    assert 0 <= max(pauses.taken) < 4.0
    assert len(found.exchanges) < 10


@pytest.mark.usefixtures("pauses")
def test_a_stream_gives_up_where_nobody_answers() -> None:
    client = FakeClient(status=0)
    client.failure = NO_CONNECTION
    assert len(run(client, Load(2, requests=100, warmup=0)).exchanges) == 2 * DEAD


def test_ticks_tell_how_far_it_is() -> None:
    ticks: list[Tick] = []
    load = Load(2, requests=6, warmup=1)
    run(FakeClient(), load, ticks=ticks)
    last = ticks[-1]
    assert (last.load, last.is_warm, last.done, last.total, last.failed, last.n_chunks) == (load, True, 6, 6, 0, 6)
    failing: list[Tick] = []
    run(FakeClient(status=500), Load(1, requests=1, warmup=0), ticks=failing)
    assert failing[-1].failed == 1


def test_the_client_notes_its_own_cost() -> None:
    async def busy(_: int) -> None:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    overhead = run(FakeClient(busy), Load(1, requests=4, warmup=1)).overhead
    assert overhead.n_chunks == 4
    assert overhead.cpu_s >= 0.2
    assert overhead.wall_s > 0
    assert max(overhead.late_s) > 0.01  # what kept the processor kept the watch from waking


def test_names_of_loads() -> None:
    assert [str(Load(1)), str(Load(8)), str(Load(rate=0.5))] == ["1 stream", "8 streams", "0.5/s"]
