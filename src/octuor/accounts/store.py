"""Keys and usage as they are kept: one SQLite database, used by several processes at once."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from octuor.accounts.database import FILE_NAME, connect, default_home, explained, writing
from octuor.accounts.keys import LOCAL, PREFIX, Key, check_key, digest_of, id_of, make_secret
from octuor.errors import AccountError

Outcome = Literal["ok", "error", "cancelled"]

SELECT_KEYS = """
    SELECT id, name, created_at, expires_at, revoked_at, requests_per_minute, tokens_per_minute, models, digest
    FROM keys ORDER BY created_at, rowid"""

SELECT_USAGE = """
    SELECT day, key_id, coalesce(keys.name, key_id), model,
           requests, errors, cancelled, prompt_tokens, cached_tokens, completion_tokens
    FROM usage LEFT JOIN keys ON keys.id = key_id
    WHERE day >= ? ORDER BY day, 3, key_id, model"""

ADD_USAGE = """
    INSERT INTO usage (day, key_id, model, requests, errors, cancelled, prompt_tokens, cached_tokens, completion_tokens)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (day, key_id, model) DO UPDATE SET
        requests = requests + excluded.requests,
        errors = errors + excluded.errors,
        cancelled = cancelled + excluded.cancelled,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens"""


@dataclass(frozen=True)
class StoredKey:
    """A key, and the digest that a secret must have to be this key."""

    key: Key
    digest: bytes


@dataclass(frozen=True)
class Entry:
    """One request that has ended."""

    key_id: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    outcome: Outcome


@dataclass(frozen=True)
class UsageRow:
    """What one key has used of one model on one day.

    day            UTC, such as "2026-03-02": the day on which requests ended
    name           the key's
    requests       all of them; errors and cancelled are among them
    cached_tokens  of prompt_tokens, those that were not computed again
    """

    day: str
    key_id: str
    name: str
    model: str
    requests: int
    errors: int
    cancelled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Store:
    """The database, open. One thread at a time may use it. A context manager that closes at its end.

    All methods raise AccountError of kind "state" where the database cannot be used, or was moved or replaced since
    it was opened: what is written into a deleted file is lost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = connect(path)
        self._identity = _identity(path)

    def create_key(
        self,
        name: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        models: Collection[str] | None = None,
        expires_at: int | None = None,
    ) -> tuple[str, Key]:
        """Make a key; parameters as in Key.

        returns  the secret, which cannot be had again, and what is known of it

        Raises AccountError of kind "state" if the name is bad or a living key has it, or a limit is impossible.
        """
        now = int(time.time())
        key = Key(
            id="",
            name=name,
            created_at=now,
            expires_at=expires_at,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            models=None if models is None else frozenset(models),
        )
        check_key(key)
        with self._writing():
            keys = [stored.key for stored in self._select_keys()]
            taken = {key.name for key in keys if key.revoked_at is None and not key.is_expired(now)}
            if name in taken:
                raise AccountError(
                    f"{name!r} is the name of another key; choose one, or revoke that key first", kind="state"
                )
            ids = {key.id for key in keys}
            secret = make_secret()
            while id_of(secret) in ids:
                secret = make_secret()
            key = replace(key, id=id_of(secret))
            self._connection.execute(
                "INSERT INTO keys (id, name, digest, created_at, expires_at, requests_per_minute, tokens_per_minute,"
                " models) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key.id, name, digest_of(secret), now, expires_at, requests_per_minute, tokens_per_minute,
                 None if key.models is None else ",".join(sorted(key.models))),
            )  # fmt: skip
        return secret, key

    def list_keys(self) -> list[Key]:
        """All keys that were ever made, the oldest first."""
        with self._reading():
            return [stored.key for stored in self._select_keys()]

    def revoke(self, who: str) -> list[Key]:
        """End the keys that `find` finds, at once and for ever; what they have used is kept.

        returns  those that were not revoked before, as they are now

        Raises AccountError of kind "state" if there is none.
        """
        now = int(time.time())
        with self._writing():
            revoked = [replace(key, revoked_at=now) for key in self._find(who) if key.revoked_at is None]
            for key in revoked:
                self._connection.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (now, key.id))
        if not revoked:
            raise AccountError(f"{_public(who)!r} was revoked before", kind="state")
        return revoked

    def usage(self, who: str | None = None, *, since: date | None = None) -> list[UsageRow]:
        """What was used, by day, name and model.

        who    a key's name (several keys may have had it) or id, or LOCAL's; None: everybody
        since  the first day, UTC; None: from the beginning

        Raises AccountError of kind "state" if there is no such key.
        """
        with self._reading():
            ids = None if who is None else {LOCAL.id} if who == LOCAL.name else {key.id for key in self._find(who)}
            rows = self._connection.execute(SELECT_USAGE, ("" if since is None else since.isoformat(),))
            return [row for row in (UsageRow(*values) for values in rows) if ids is None or row.key_id in ids]

    def add(self, entries: Iterable[Entry], now: float) -> None:
        """Write down requests that ended, all of them or none: on disk when it returns.

        now  seconds since 1970
        """
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        sums: dict[tuple[str, str], list[int]] = {}
        for entry in entries:
            columns = sums.setdefault((entry.key_id, entry.model), [0] * 6)
            is_error, is_cancelled = entry.outcome == "error", entry.outcome == "cancelled"
            added = (1, is_error, is_cancelled, entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens)
            columns[:] = map(sum, zip(columns, added, strict=True))
        with self._writing():
            self._connection.executemany(ADD_USAGE, [(day, *who, *columns) for who, columns in sums.items()])

    def revision(self) -> int:
        """A number that grows whenever any process makes, revokes or changes a key."""
        with self._reading():
            revision: int = self._connection.execute("SELECT n FROM revision").fetchone()[0]
            return revision

    def stored_keys(self) -> tuple[int, Mapping[str, StoredKey]]:
        """The revision, and the keys of that one or a later by id."""
        revision = self.revision()
        with self._reading():
            return revision, {stored.key.id: stored for stored in self._select_keys()}

    def close(self) -> None:
        """Close the database; the last process to do so leaves all in one file."""
        with explained(self.path):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _select_keys(self) -> Iterator[StoredKey]:
        for row in self._connection.execute(SELECT_KEYS):
            key_id, name, created_at, expires_at, revoked_at, requests, tokens, models, digest = row
            allowed = None if models is None else frozenset(models.split(","))
            yield StoredKey(Key(key_id, name, created_at, expires_at, revoked_at, requests, tokens, allowed), digest)

    def _find(self, who: str) -> list[Key]:
        """Keys by name or id; a whole secret is good too, since the one to be revoked has often leaked."""
        known = [stored.key for stored in self._select_keys()]
        found = [key for key in known if (key.id == id_of(who) if who.startswith(PREFIX) else key.name == who)]
        if not found:
            raise AccountError(f"no key has the name or id {_public(who)!r}; see `octuor keys list`", kind="state")
        return found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if _identity(self.path) != self._identity:
            raise AccountError(
                f"{self.path}: the accounts were moved or replaced while they were in use; start again", kind="state"
            )
        with explained(self.path):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._reading(), writing(self._connection):
            yield


def open_store(home: Path | None = None) -> Store:
    """Open the accounts, made if there are none.

    home  the folder; None: default_home()

    Raises AccountError of kind "state" where they cannot be made or read.
    """
    return Store((default_home() if home is None else home) / FILE_NAME)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _public(who: str) -> str:
    """A name or id as it may be shown: no secret is repeated in a message."""
    return id_of(who) if who.startswith(PREFIX) else who
