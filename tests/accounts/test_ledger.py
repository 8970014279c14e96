"""The ledger: what it has acknowledged is on disk, whatever happens to the process; callers at once share a commit."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_line import environment
from octuor.accounts.ledger import Ledger
from octuor.accounts.store import Entry, Store, open_store
from octuor.errors import AccountError

NOON = 1_772_452_800.0  # 2026-03-02 12:00 UTC
WAIT_S = 30.0


def entry(model: str = "m") -> Entry:
    return Entry("sk-1", model, 3, 1, 2, "ok")


class SlowStore:
    """Commits when it is told to; keeps what each commit held."""

    def __init__(self) -> None:
        self.commits: list[list[Entry]] = []
        self.began = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)
        self.error: Exception | None = None

    def add(self, entries: list[Entry], now: float) -> None:
        assert now == NOON
        self.began.release()
        assert self.may_go_on.acquire(timeout=WAIT_S)
        if self.error is not None:
            raise self.error
        self.commits.append(entries)


@contextmanager
def ledger_of(store: Store | SlowStore, poll: Callable[[], None] = lambda: None) -> Iterator[Ledger]:
    ledger = Ledger(store, lambda: NOON, poll, 0.01)  # type: ignore[arg-type]
    try:
        yield ledger
    finally:
        if isinstance(store, SlowStore):
            store.may_go_on.release(1000)
        ledger.close()


def test_what_is_acknowledged_can_be_read(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, open_store(tmp_path) as reader, ledger_of(store) as ledger:
        for i in range(1, 20):
            ledger.record(entry()).result(WAIT_S)
            (row,) = reader.usage()
            assert (row.day, row.requests, row.prompt_tokens) == ("2026-03-02", i, 3 * i)


def test_nothing_is_acknowledged_before_its_commit_ends() -> None:
    store = SlowStore()
    with ledger_of(store) as ledger:
        future = ledger.record(entry())
        assert store.began.acquire(timeout=WAIT_S)
        assert not future.done()
        store.may_go_on.release()
        assert future.result(WAIT_S) is None


def test_those_who_come_meanwhile_share_the_next_commit() -> None:
    store = SlowStore()
    with ledger_of(store) as ledger:
        first = ledger.record(entry("first"))
        assert store.began.acquire(timeout=WAIT_S)
        others = [ledger.record(entry(f"{i}")) for i in range(32)]
        store.may_go_on.release(2)
        wait([first, *others], WAIT_S)
        assert [len(commit) for commit in store.commits] == [1, 32]
        assert [one.model for one in store.commits[1]] == [f"{i}" for i in range(32)]


def test_threads(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, ledger_of(store) as ledger:

        def work() -> None:
            for _ in range(25):
                ledger.record(entry()).result(WAIT_S)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open_store(tmp_path) as reader:
            assert [row.requests for row in reader.usage()] == [400]


def test_a_commit_that_fails_is_told_to_all_who_wait_and_the_next_is_tried() -> None:
    store = SlowStore()
    store.may_go_on.release(100)
    with ledger_of(store) as ledger:
        for error in (AccountError("its disk is full", kind="state"), RuntimeError("a bug")):
            store.error = error
            assert ledger.record(entry()).exception(WAIT_S) is error
        store.error = None
        assert ledger.record(entry()).result(WAIT_S) is None


def test_cancelling_does_not_undo() -> None:
    """A task that is cancelled while it waits cancels the future: what was used was used all the same."""
    store = SlowStore()

    async def caller(ledger: Ledger) -> None:
        task = asyncio.ensure_future(asyncio.wrap_future(ledger.record(entry())))
        await asyncio.to_thread(store.began.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ledger_of(store) as ledger:
        asyncio.run(caller(ledger))
        future = ledger.record(entry())
        assert not future.cancel()
        store.may_go_on.release(2)
        future.result(WAIT_S)
        assert [len(commit) for commit in store.commits] == [1, 1]


def test_closing_writes_what_waits_and_then_refuses() -> None:
    store = SlowStore()
    with ledger_of(store) as ledger:
        futures = [ledger.record(entry())]
        assert store.began.acquire(timeout=WAIT_S)
        futures += [ledger.record(entry()) for _ in range(5)]
        closer = threading.Thread(target=ledger.close)
        closer.start()
        store.may_go_on.release(10)
        closer.join(WAIT_S)
        assert not closer.is_alive()
        assert all(future.result(0) is None for future in futures)
        assert sum(map(len, store.commits)) == 6
        error = ledger.record(entry()).exception(0)
        assert isinstance(error, AccountError)
        assert (error.kind, "closed" in str(error)) == ("state", True)
        ledger.close()  # twice is once


def test_it_polls_idle_and_busy() -> None:
    store, polled = SlowStore(), threading.Semaphore(0)
    store.may_go_on.release(10**6)
    with ledger_of(store, polled.release) as ledger:
        for _ in range(3):
            assert polled.acquire(timeout=WAIT_S)
        stop = threading.Event()

        def keep_busy() -> None:
            while not stop.is_set():
                ledger.record(entry()).result(WAIT_S)

        thread = threading.Thread(target=keep_busy)
        thread.start()
        seen = [polled.acquire(timeout=WAIT_S) for _ in range(3)]
        stop.set()
        thread.join(WAIT_S)
        assert seen == [True] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_died() -> None:
    """It is a bug if it does; a server that hangs would be a second one."""
    may_die = threading.Event()

    def die() -> None:
        may_die.wait(WAIT_S)
        raise ZeroDivisionError

    store = SlowStore()
    store.may_go_on.release(10**6)
    with ledger_of(store, die) as ledger:
        futures: list[Future[None]] = []
        may_die.set()
        while not futures or futures[-1].exception(WAIT_S) is None:
            futures.append(ledger.record(entry()))
        assert isinstance(futures[-1].exception(), AccountError)


# ---- kill -9 -------------------------------------------------------------------------------------

SERVER = """
import os, sys, threading
from pathlib import Path
from octuor.accounts import LOCAL, open_accounts

accounts = open_accounts(Path(sys.argv[1]))

def serve(worker):
    for i in range(10**9):
        model = f"{sys.argv[2]}-{worker}-{i}"  # a row of its own for each request
        accounts.admit(LOCAL, model, 3).finish(completion_tokens=2).result()
        os.write(1, f"{model}\\n".encode())

for worker in range(8):
    threading.Thread(target=serve, args=(worker,)).start()
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Again and again on one database: each next start finds all that the ones before have acknowledged."""
    random_numbers = random.Random(4)
    acknowledged: list[str] = []
    for run in range(4):
        command = [sys.executable, "-c", SERVER, str(tmp_path), str(run)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            for _ in range(random_numbers.randint(1, 300)):
                acknowledged.append(server.stdout.readline().strip())
            server.kill()
            acknowledged += [line.strip() for line in server.stdout if line.endswith("\n")]
        with open_store(tmp_path) as store:
            rows = store.usage()
        assert "" not in acknowledged
        assert set(acknowledged) <= {row.model for row in rows}
        assert {(row.requests, row.prompt_tokens, row.completion_tokens) for row in rows} == {(1, 3, 2)}
        assert len(rows) <= len(acknowledged) + 8 * (run + 1)  # written, but killed before it could say so
