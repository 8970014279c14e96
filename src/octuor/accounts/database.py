"""The SQLite file: where it is, how it is opened, its schema, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octuor.errors import AccountError

HOME_VARIABLE = "OCTUOR_HOME"
FILE_NAME = "accounts.sqlite3"
APPLICATION_ID = 0x4F637475  # "Octu", in the file's header: nobody else's database is taken for ours
BUSY_S = 5.0  # how long to wait for another process that writes; a transaction of ours takes milliseconds


@dataclass(frozen=True)
class Kind:
    """What one of our databases holds: in its header, and in messages about it.

    lost  what is gone for whoever moves a damaged file away
    """

    application_id: int
    holds: str
    lost: str

    @property
    def if_damaged(self) -> str:
        """What to do with a damaged file."""
        return f"it is damaged; restore a backup, or move it away to begin anew, without {self.lost}"


ACCOUNTS = Kind(APPLICATION_ID, holds="accounts", lost="keys")

# One entry a version of the schema, each the statements that lead to it from the one before. An entry that has been
# released is never changed; a server that is still running meanwhile must be able to go on, so only add.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE keys (
            id TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            digest BLOB NOT NULL,         -- SHA-256 of the whole key
            created_at INTEGER NOT NULL,  -- this and other times: seconds since 1970, UTC
            expires_at INTEGER,
            revoked_at INTEGER,
            requests_per_minute INTEGER,
            tokens_per_minute INTEGER,
            models TEXT                   -- a JSON list of names
        )""",
        # without ROWID the rows lie in the order of the days: yesterday's pages are never written again
        """CREATE TABLE usage (
            day TEXT NOT NULL,            -- UTC, such as 2026-03-02
            key_id TEXT NOT NULL,
            model TEXT NOT NULL,
            requests INTEGER NOT NULL,
            errors INTEGER NOT NULL,      -- of the requests; so are those cancelled
            cancelled INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            PRIMARY KEY (day, key_id, model)
        ) WITHOUT ROWID""",
        # counts changes of keys: running servers look at this one number
        "CREATE TABLE revision (n INTEGER NOT NULL)",
        "INSERT INTO revision VALUES (0)",
        *(
            f"CREATE TRIGGER keys_{event.lower()} AFTER {event} ON keys BEGIN UPDATE revision SET n = n + 1; END"
            for event in ("INSERT", "UPDATE", "DELETE")
        ),
    ),
)


def default_home() -> Path:
    """OCTUOR_HOME, else the folder octuor in the user's data folder (XDG_DATA_HOME, else ~/.local/share).

    Raises AccountError of kind "state" where this user has no folder, as in some containers.
    """
    home, data = os.environ.get(HOME_VARIABLE), os.environ.get("XDG_DATA_HOME", "")
    try:
        if home:
            return Path(home).expanduser()
        # a relative path is to be ignored, says the XDG base directory specification
        return (Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share") / "octuor"
    except RuntimeError as error:
        raise AccountError(f"this user has no home folder; set {HOME_VARIABLE} to a folder", kind="state") from error


def connect(path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS, kind: Kind = ACCOUNTS) -> sqlite3.Connection:
    """Open the database, made with mode 0600 in a folder with mode 0700 where there is none, at the newest schema.

    The connection may be used by any thread, but by one at a time, and commits each statement outside of `writing`.
    Raises AccountError of kind "state" if it cannot be made or read, is damaged, not ours, or of a newer version.
    """
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # SQLite gives the files beside it the same mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        no_folder = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "expected a folder, found a file" if no_folder else error.strerror
        raise AccountError(
            f"{path}: the {kind.holds} cannot be opened ({error.filename}: {reason}); "
            f"set {HOME_VARIABLE} to another folder",
            kind="state",
        ) from error
    with explained(path, kind):
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path, migrations, kind)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is the only one to write from its beginning; on disk at the end, or gone where one raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have ended it already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: Path, kind: Kind = ACCOUNTS) -> Iterator[None]:
    """Raise SQLite's errors as AccountErrors of kind "state"."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says more than anybody can use
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            advice = f"another process has held it for {BUSY_S:g} s; try again, or end that process"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            advice = kind.if_damaged
        elif code == sqlite3.SQLITE_FULL:
            advice = "its disk is full; make room"
        else:
            advice = "is its disk writable and in order?"
        raise AccountError(f"{path}: the {kind.holds} cannot be used ({error}): {advice}", kind="state") from error


def _prepare(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]], kind: Kind) -> None:
    if _is_foreign(connection, kind):
        raise AccountError(
            f"{path}: expected Octuor's {kind.holds}, found another program's database; "
            f"set {HOME_VARIABLE} to another folder",
            kind="state",
        )
    _use_wal(connection)
    # FULL: the write-ahead log is on disk at the end of each transaction. NORMAL would survive a killed process as
    # well, since the kernel has the data, but lose the last transactions when the power fails
    connection.execute("PRAGMA synchronous = FULL")
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise AccountError(
            f"{path}: the {kind.holds} cannot be used ({' '.join(damage.split())}): {kind.if_damaged}", kind="state"
        )
    if _version(connection) < len(migrations):
        with writing(connection):
            for number in range(
                _version(connection), len(migrations)
            ):  # asked again: another process may have been here
                for statement in migrations[number]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
    if _version(connection) > len(migrations):
        raise AccountError(
            f"{path}: expected {kind.holds} of version {len(migrations)} or older, found {_version(connection)}; "
            "upgrade Octuor, which has been here in a newer version",
            kind="state",
        )


def _is_foreign(connection: sqlite3.Connection, kind: Kind) -> bool:
    """Whether somebody else made it; a file without any table is nobody's."""
    # the tables first: another process may be making ours, and they appear together with the application's id
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return False
    return connection.execute("PRAGMA application_id").fetchone()[0] != kind.application_id


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write ahead: readers never wait for a writer. Kept in the file; only its first opener changes anything.

    That change needs the file alone, and SQLite does not wait for it as it does elsewhere.
    """
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.01)
