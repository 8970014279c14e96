"""What a server asks of the accounts: who is it, may it, and what has it used."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from octuor.accounts.keys import LOCAL, Key, digest_of, id_of
from octuor.accounts.ledger import Ledger
from octuor.accounts.limits import Limiter
from octuor.accounts.store import Entry, Outcome, Store, StoredKey, open_store
from octuor.errors import AccountError

POLL_S = 0.25  # a key made or revoked by another process is seen within this time
NOBODY = StoredKey(Key(id="", name=""), bytes(32))  # compared with secrets whose id is unknown; nothing has this digest

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clock:
    """The time of day (seconds since 1970) and a time that never jumps (nanoseconds)."""

    wall: Callable[[], float] = time.time
    steady_ns: Callable[[], int] = time.monotonic_ns


class Admission:
    """Leave to run one request, to be ended by `finish` or `withdraw`; whichever comes first counts."""

    def __init__(self, key: Key, model: str, prompt_tokens: int, limiter: Limiter, ledger: Ledger) -> None:
        self.key = key
        self.model = model
        self.prompt_tokens = prompt_tokens
        self._limiter = limiter
        self._ledger = ledger
        self._lock = threading.Lock()
        self._end: Future[None] | None = None

    def finish(self, *, completion_tokens: int, cached_tokens: int = 0, outcome: Outcome = "ok") -> Future[None]:
        """Charge the answer to the key's limits and have the request written down. Does not block.

        completion_tokens  of all choices together, up to where they ended
        cached_tokens      of the prompt, as the engine said
        outcome            "ok" also where a length ended it; "cancelled": the caller went away; "error": ours

        returns  a future that is done once the request is on disk: await it (asyncio.wrap_future) before the last
                 byte of an answer is sent. It fails with AccountError of kind "state" where that cannot be done.
                 Cancelling it does not undo anything. Later calls return the same future
        """
        with self._lock:
            if self._end is None:
                self._limiter.charge(self.key, completion_tokens)
                tokens = (self.prompt_tokens, cached_tokens, completion_tokens)
                self._end = self._ledger.record(Entry(self.key.id, self.model, *tokens, outcome))
            return self._end

    def withdraw(self) -> None:
        """For a request that was never run, such as one that found the queue full: give back what it took from the
        key's limits and write nothing down. After `finish` nothing happens."""
        with self._lock:
            if self._end is None:
                self._limiter.give_back(self.key, self.prompt_tokens)
                self._end = Future()
                self._end.set_result(None)


class Accounts:
    """The accounts as a running server sees them. All methods may be called from any thread and none waits for the
    disk but `close`: keys are read by a thread of its own, which also writes what was used.

    Limits are counted in this process's memory: they start anew with it, and each of several servers has its own.
    A context manager that closes at its end.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._limiter = Limiter(clock.steady_ns)
        self._revision, self._keys = store.stored_keys()
        self._is_behind = False
        self._ledger = Ledger(store, clock.wall, self._poll, POLL_S)

    def has_keys(self) -> bool:
        """Whether a key was ever made, revoked and expired ones included: from then on every request needs one, so
        that revoking the last key locks a server and does not open it."""
        return bool(self._keys)

    def authenticate(self, secret: str | None) -> Key:
        """Whose secret this is: the text after "Bearer", or None where there was none.

        returns  its key; LOCAL for anybody, whatever the secret, while no key has been made (has_keys)

        Raises AccountError of kind "invalid", "expired" or "revoked"; what became of a key is told only to those who
        have it. How long it takes says nothing about how much of a secret is right, or whether its id exists.
        """
        keys = self._keys
        if not keys:
            return LOCAL
        if secret is None:
            raise AccountError(
                "expected an API key, found none; send the header Authorization: Bearer sk-...", kind="invalid"
            )
        stored = keys.get(id_of(secret), NOBODY)
        if not hmac.compare_digest(digest_of(secret), stored.digest):
            raise AccountError("no such API key; ask those who run this server for one", kind="invalid")
        key = stored.key
        if key.revoked_at is not None:
            raise AccountError(f"key {key.name!r} was revoked; ask for another one", kind="revoked")
        if key.is_expired(self._clock.wall()):
            raise AccountError(f"key {key.name!r} has expired; ask for another one", kind="expired")
        return key

    def admit(self, key: Key, model: str, prompt_tokens: int, *, names: Collection[str] = ()) -> Admission:
        """Leave for one request, to be asked for once its prompt is tokenized and found good.

        model   the name that it is accounted under: one a model, whatever alias it was asked for by
        names   the model's other names: a key that may use one of them may use the model

        Takes one request and prompt_tokens from the key's limits at once. Raises AccountError of kind
        "model_not_allowed", or "rate_limited" with retry_after_s; then nothing was taken and nothing is written down.
        """
        if not key.allows(model, *names):
            raise AccountError(f"key {key.name!r} may not use the model {model!r}", kind="model_not_allowed")
        self._limiter.admit(key, prompt_tokens)
        return Admission(key, model, prompt_tokens, self._limiter, self._ledger)

    def close(self) -> None:
        """Write down what was finished, then end. Requests that finish later fail with AccountError."""
        self._ledger.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _poll(self) -> None:
        """Read the keys again if any process has changed them; called by the ledger's thread."""
        try:
            if self._store.revision() != self._revision:
                self._revision, self._keys = self._store.stored_keys()
        except AccountError as error:
            if not self._is_behind:  # once, and not at every poll
                LOGGER.error("keys made or revoked from now on are not seen: %s", error)
            self._is_behind = True
        else:
            self._is_behind = False


def open_accounts(home: Path | None = None, *, clock: Clock | None = None) -> Accounts:
    """Open the accounts for a server, made if they do not exist, and start their thread.

    home  the folder; None: default_home()

    Raises AccountError of kind "state" where the database cannot be made or read.
    """
    return Accounts(open_store(home), clock or Clock())
