"""From the engine's thread to asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from octuor.engine.request import Event, Failed, Finish, Pooled, Prefilled, Prompt, Request, Step
from octuor.errors import EngineError, OverloadError
from octuor.server.listen import Listening, listen, listen_all
from server.fake_engine import FakeEngine, FakeJob, plays, says, step

ASK = Request(Prompt([1, 2, 3]))


def test_events_come_in_order_and_end() -> None:
    async def run() -> list[Event]:
        async with listen(FakeEngine(says("a", "b", "c")), ASK) as events:
            return [event async for event in events]

    events = asyncio.run(run())
    assert isinstance(events[0], Prefilled)
    assert [event.text for event in events if isinstance(event, Step)] == ["a", "b", "c"]


def test_all_choices_are_waited_for() -> None:
    async def run() -> list[Event]:
        async with listen(FakeEngine(says("a", "b")), Request(Prompt([1]), n=3)) as events:
            return [event async for event in events]

    assert sum(isinstance(event, Step) and event.finish is not None for event in asyncio.run(run())) == 3


def test_vectors_end_a_request() -> None:
    async def run() -> list[Event]:
        async with listen(FakeEngine(says()), Request(Prompt([1]), pooled=True)) as events:
            return [event async for event in events]

    (event,) = asyncio.run(run())
    assert isinstance(event, Pooled)


def test_leaving_early_cancels() -> None:
    never = threading.Event()
    engine = FakeEngine(plays(step("a"), never))

    async def run() -> None:
        async with listen(engine, ASK) as events:
            async for _ in events:
                break

    asyncio.run(run())
    assert engine.jobs[0].cancelled.is_set()
    never.set()


def test_what_has_ended_is_not_cancelled() -> None:
    engine = FakeEngine(says("a"))

    async def run() -> None:
        async with listen(engine, ASK) as events:
            async for _ in events:
                pass

    asyncio.run(run())
    assert not engine.jobs[0].cancelled.is_set()


def test_failures_are_raised() -> None:
    async def run() -> None:
        async with listen(FakeEngine(plays(step("a"), Failed(EngineError("broken")))), ASK) as events:
            async for _ in events:
                pass

    with pytest.raises(EngineError, match="broken"):
        asyncio.run(run())


def test_a_long_list_waits_for_its_turn() -> None:
    """No more than at_once are with the engine, each has its place, and all are answered."""
    most = 0

    async def run() -> dict[int, str]:
        nonlocal most
        texts: dict[int, str] = {}
        requests = [Request(Prompt([place])) for place in range(1, 21)]
        async with listen_all(engine, requests, at_once=4) as listening:
            async for place, event in listening:
                if isinstance(event, Step):
                    texts[place] = texts.get(place, "") + event.text
                most = max(most, len(listening.jobs) - len(listening.finished))
            assert len(listening.jobs) == 20
        return texts

    engine = FakeEngine(says("a", "b"))
    assert asyncio.run(run()) == dict.fromkeys(range(20), "ab")
    assert [request.prompt.ids for request in engine.requests] == [[place] for place in range(1, 21)]
    assert most <= 4


def test_a_full_queue_cancels_those_before() -> None:
    engine = FakeEngine(plays(threading.Event()), refuses=OverloadError("full"), n_accepted=2)

    async def run() -> None:
        async with listen_all(engine, [ASK] * 3):
            raise AssertionError("a request was lost")

    with pytest.raises(OverloadError):
        asyncio.run(run())
    assert [job.cancelled.is_set() for job in engine.jobs] == [True, True]


def test_a_loop_that_has_closed_is_nobody_to_tell() -> None:
    """An engine may deliver when nobody listens any more; it must not hear of it."""
    told: list[Callable[[Event], None]] = []
    never = threading.Event()

    class Keeps(FakeEngine):
        def submit(self, request: Request, deliver: Callable[[Event], None]) -> FakeJob:
            told.append(deliver)
            return super().submit(request, deliver)

    async def run() -> None:
        listening = Listening(Keeps(plays(never)), [ASK])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(listening), 0.01)

    asyncio.run(run())
    told[0](Step(0, None, "", Finish("stop")))
    never.set()
