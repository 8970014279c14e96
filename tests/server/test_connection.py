"""Work that ends when the client goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from octuor.server.connection import ClientGoneError, while_connected


async def never() -> Any:
    await asyncio.Event().wait()


async def gone() -> Any:
    return {"type": "http.disconnect"}


def test_the_result_comes_back() -> None:
    async def work() -> int:
        return 5

    assert asyncio.run(while_connected(never, work())) == 5


def test_errors_come_through() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(while_connected(never, work()))


def test_work_has_ended_when_the_client_is_told_gone() -> None:
    ended = []

    async def work() -> None:
        try:
            await never()
        finally:
            await asyncio.to_thread(lambda: ended.append(True))

    with pytest.raises(ClientGoneError):
        asyncio.run(while_connected(gone, work()))
    assert ended == [True]


def test_whoever_cancels_the_whole_cancels_the_work() -> None:
    ended = []

    async def work() -> None:
        try:
            await never()
        finally:
            ended.append(True)

    async def run() -> None:
        task = asyncio.create_task(while_connected(never, work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert ended == [True]
