"""The thread that writes down what was used: requests that end at the same time share one write to the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from octuor.accounts.store import Entry, Store
from octuor.errors import AccountError

CLOSED = "the accounts are closed: nothing more is written down"


class Ledger:
    """Collects entries and commits all that have come while the commit before was on its way.

    store  used by this ledger's thread alone from now on, until `close` returns
    wall   the time of day, seconds since 1970
    poll   called by the thread every interval_s, between commits; may not raise
    """

    def __init__(self, store: Store, wall: Callable[[], float], poll: Callable[[], None], interval_s: float) -> None:
        self._store = store
        self._wall = wall
        self._poll = poll
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._waiting: list[tuple[Entry, Future[None]]] = []
        self._is_closing = False
        # a daemon: a server that ends without `close` has not acknowledged what is still waiting here
        self._thread = threading.Thread(target=self._run, name="octuor-accounts", daemon=True)
        self._thread.start()

    def record(self, entry: Entry) -> Future[None]:
        """Hand an entry over. The future is done when it is on disk, or fails with AccountError of kind "state"."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # from now on it cannot be cancelled: what was used was used
        with self._changed:
            if self._is_closing:
                future.set_exception(AccountError(CLOSED, kind="state"))
            else:
                self._waiting.append((entry, future))
                self._changed.notify()
        return future

    def close(self) -> None:
        """Commit what was handed over, then end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        finally:  # if a bug ends the thread, nobody may wait for ever
            with self._changed:
                self._is_closing = True
            for _, future in self._waiting:
                future.set_exception(AccountError(CLOSED, kind="state"))

    def _work(self) -> None:
        due_at = time.monotonic() + self._interval_s
        while True:
            with self._changed:
                timeout_s = max(0.0, due_at - time.monotonic())
                self._changed.wait_for(lambda: self._waiting or self._is_closing, timeout_s)
                batch, self._waiting = self._waiting, []
                is_closing = self._is_closing
            if batch:
                self._commit(batch)
            elif is_closing:
                return
            if time.monotonic() >= due_at:
                self._poll()
                due_at = time.monotonic() + self._interval_s

    def _commit(self, batch: list[tuple[Entry, Future[None]]]) -> None:
        try:
            self._store.add([entry for entry, _ in batch], self._wall())
        except Exception as error:  # whatever it is, those who wait must hear of it, and the thread must go on
            for _, future in batch:
                future.set_exception(error)
        else:
            for _, future in batch:
                future.set_result(None)
