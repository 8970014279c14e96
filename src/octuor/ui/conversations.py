"""Conversations as they are kept: one SQLite database under OCTUOR_HOME, each conversation its owner's alone.

An owner is `User.owner`. Every method takes it first, and finds, changes and deletes nothing of anybody else: another
owner's conversation is one that does not exist. Methods may be called by any thread, and take milliseconds.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from octuor.accounts import default_home
from octuor.accounts.database import Kind, connect, explained, writing
from octuor.errors import UiError
from octuor.ui import settings as settings_module
from octuor.ui.backend import ChatSettings

FILE_NAME = "ui.sqlite3"
KIND = Kind(0x4F637569, holds="conversations", lost="them")  # "Ocui"
MAX_TITLE = 120  # characters; a longer one is cut
MAX_CONTENT = 1_000_000  # characters of one message
MAX_TURNS = 10_000
MAX_LISTED = 500  # the newest; older ones are found by searching

TurnRole = Literal["user", "assistant"]
Ending = Literal["stop", "length", "cancelled", "failed"]

# One entry a version of the schema; one that has been released is never changed.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id TEXT NOT NULL PRIMARY KEY,
            owner TEXT NOT NULL,
            title TEXT NOT NULL,
            created REAL NOT NULL,        -- seconds since 1970, UTC; so is updated
            updated REAL NOT NULL,
            model TEXT NOT NULL,
            settings TEXT NOT NULL        -- JSON
        )""",
        "CREATE INDEX conversations_of ON conversations (owner, updated)",
        """CREATE TABLE messages (
            id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,  -- never used again: an answer that was deleted stays so
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            finish TEXT,
            model TEXT NOT NULL,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            tokens_per_s REAL,
            routing BLOB,
            UNIQUE (conversation, position)
        )""",
    ),
)
SELECT = "SELECT id, title, created, updated, model, settings FROM conversations"
TURN = ("role", "content", "finish", "model", "prompt_tokens", "completion_tokens", "tokens_per_s")  # columns


@dataclass(frozen=True)
class Conversation:
    """One conversation without its messages. created, updated: seconds since 1970, UTC."""

    id: str
    title: str
    created: float
    updated: float
    model: str
    settings: ChatSettings


@dataclass(frozen=True)
class Turn:
    """One message. What is None is not known, or not for a user's.

    finish         why an answer ended; None: a user's message, or an answer that is being given
    prompt_tokens  of everything before it
    id             its number in the database, which stays the same when its text changes; 0: not kept yet
    routing        octuor.routing.Routing.to_bytes(); to be kept, never in what `turns` returns
    has_routing    `routing` would return it
    """

    role: TurnRole
    content: str
    finish: Ending | None = None
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_per_s: float | None = None
    id: int = 0
    routing: bytes | None = field(default=None, repr=False, compare=False)
    has_routing: bool = False


class Conversations:
    """The database, open. `close` it at the end."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open it, and make it where there is none. Raises AccountError of kind "state", as other databases of ours."""
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._connection = connect(path, MIGRATIONS, KIND)
        # chats are written to every second: a power failure may cost the last ones, a killed process none
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.create_function("folded", 1, folded, deterministic=True)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # ---- conversations ---------------------------------------------------------------------------

    def list(self, owner: str) -> tuple[Conversation, ...]:
        """The newest MAX_LISTED, the one that was last written to first."""
        with self._using() as database:
            rows = database.execute(
                f"{SELECT} WHERE owner = ? ORDER BY updated DESC, rowid DESC LIMIT ?", (owner, MAX_LISTED)
            )
            return tuple(map(_conversation, rows))

    def search(self, owner: str, text: str) -> tuple[Conversation, ...]:
        """Those with all words of `text` in their title or in one message; case and accents do not matter."""
        words = folded(text).split()[:16]
        if not words:
            return self.list(owner)
        titled = " AND ".join("instr(folded(title), ?)" for _ in words)
        said = " AND ".join("instr(folded(content), ?)" for _ in words)
        with self._using() as database:
            rows = database.execute(
                f"""{SELECT} WHERE owner = ? AND (
                    ({titled}) OR EXISTS (SELECT 1 FROM messages WHERE conversation = conversations.id AND {said}))
                    ORDER BY updated DESC, rowid DESC LIMIT ?""",
                (owner, *words, *words, MAX_LISTED),
            )
            return tuple(map(_conversation, rows))

    def find(self, owner: str, conversation: str) -> Conversation | None:
        """One of the owner's; None where there is none."""
        with self._using() as database:
            row = database.execute(f"{SELECT} WHERE owner = ? AND id = ?", (owner, conversation)).fetchone()
            return None if row is None else _conversation(row)

    def create(self, owner: str, title: str, model: str, settings: ChatSettings) -> Conversation:
        """A new one, without messages. Raises UiError if the title is empty."""
        now = self._clock()
        made = Conversation(secrets.token_hex(12), checked_title(title), now, now, model, settings)
        with self._using() as database:
            database.execute(
                "INSERT INTO conversations (id, owner, title, created, updated, model, settings) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (made.id, owner, made.title, now, now, model, json.dumps(settings_module.to_json(settings))),
            )
        return made

    def rename(self, owner: str, conversation: str, title: str) -> bool:
        """Give it another title; False where there is none. Raises UiError if the title is empty."""
        return self._change("UPDATE conversations SET title = ?", (checked_title(title),), owner, conversation)

    def configure(self, owner: str, conversation: str, model: str, settings: ChatSettings) -> bool:
        """Keep the model and settings of its next answers; False where there is none."""
        values = (model, json.dumps(settings_module.to_json(settings)))
        return self._change("UPDATE conversations SET model = ?, settings = ?", values, owner, conversation)

    def delete(self, owner: str, conversation: str) -> bool:
        """Delete it with all its messages; False where there is none."""
        return self._change("DELETE FROM conversations", (), owner, conversation)

    # ---- messages --------------------------------------------------------------------------------

    def turns(self, owner: str, conversation: str) -> tuple[Turn, ...]:
        """Its messages in order, without their routing."""
        with self._using() as database:
            rows = database.execute(
                f"""SELECT {", ".join(f"messages.{column}" for column in TURN)}, messages.id, routing IS NOT NULL
                    FROM messages JOIN conversations ON conversations.id = conversation
                    WHERE owner = ? AND conversation = ? ORDER BY position""",
                (owner, conversation),
            )
            return tuple(replace(Turn(*row[:-1]), has_routing=bool(row[-1])) for row in rows)

    def routing(self, owner: str, turn: int) -> bytes | None:
        """An answer's routing by the answer's id; None where there is none."""
        with self._using() as database:
            row = database.execute(
                "SELECT routing FROM messages JOIN conversations ON conversations.id = conversation "
                "WHERE owner = ? AND messages.id = ?",
                (owner, turn),
            ).fetchone()
            return None if row is None else row[0]

    def replace_from(
        self, owner: str, conversation: str, position: int, turns: Sequence[Turn]
    ) -> tuple[Turn, ...] | None:
        """Cut it to `position` messages and add `turns`, as one step; those with their ids, None where there is none.

        Raises UiError if there are too many messages or one is too long, and ValueError if `position` leaves a gap.
        """
        check_size(position, turns)
        with self._using() as database, writing(database):
            now = self._clock()
            if not _touched(database, owner, conversation, now):
                return None
            database.execute("DELETE FROM messages WHERE conversation = ? AND position >= ?", (conversation, position))
            (n,) = database.execute("SELECT count(*) FROM messages WHERE conversation = ?", (conversation,)).fetchone()
            if n != position:
                raise ValueError(f"expected {position} messages before these, found {n}")
            kept = []
            for place, turn in enumerate(turns, position):
                cursor = database.execute(
                    f"INSERT INTO messages (conversation, position, {', '.join(TURN)}, routing) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (conversation, place, *_values(turn), turn.routing),
                )
                kept.append(_kept(turn, cursor.lastrowid or 0))
        return tuple(kept)

    def update(self, owner: str, conversation: str, turn: Turn) -> bool:
        """Write the message with this id anew, routing too; False where it is gone meanwhile, and nothing is written.

        Raises UiError if it is too long.
        """
        check_size(0, [turn])
        assignments = ", ".join(f"{name} = ?" for name in (*TURN, "routing"))
        with self._using() as database, writing(database):
            changed = database.execute(
                f"""UPDATE messages SET {assignments} WHERE id = ? AND conversation = ?
                    AND EXISTS (SELECT 1 FROM conversations WHERE id = ? AND owner = ?)""",
                (*_values(turn), turn.routing, turn.id, conversation, conversation, owner),
            ).rowcount
            return changed > 0 and _touched(database, owner, conversation, self._clock())

    def forget(self, owner: str, conversation: str, turn: int) -> bool:
        """Delete the message with this id where it is the last one; False where it is not."""
        with self._using() as database:
            cursor = database.execute(
                """DELETE FROM messages WHERE id = ? AND conversation = ?
                   AND position = (SELECT max(position) FROM messages WHERE conversation = ?)
                   AND EXISTS (SELECT 1 FROM conversations WHERE id = ? AND owner = ?)""",
                (turn, conversation, conversation, conversation, owner),
            )
            return cursor.rowcount > 0

    # ---- within ----------------------------------------------------------------------------------

    def _change(self, statement: str, values: tuple[str, ...], owner: str, conversation: str) -> bool:
        with self._using() as database:
            return (
                database.execute(f"{statement} WHERE owner = ? AND id = ?", (*values, owner, conversation)).rowcount > 0
            )

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock, explained(self.path, KIND):
            yield self._connection


def open_conversations(home: Path | None = None) -> Conversations:
    """The database in `home`; None is OCTUOR_HOME's. Raises AccountError of kind "state"."""
    return Conversations((default_home() if home is None else home) / FILE_NAME)


def title_of(text: str) -> str:
    """A conversation's name from its first message: the beginning of its first line with words, cut between words."""
    lines = (" ".join(_clean(line).strip("#>*`-=_ ").split()) for line in text.splitlines())
    line = next((line for line in lines if line), "…")
    if len(line) <= 60:
        return line
    cut = line[:60].rpartition(" ")[0]
    return (cut if len(cut) > 30 else line[:59]).rstrip(" ,;:.") + "…"


def checked_title(title: str) -> str:
    """The title on one line, cut to MAX_TITLE characters. Raises UiError if nothing is left."""
    clean = " ".join(_clean(title).split())[:MAX_TITLE].rstrip()
    if not clean:
        raise UiError("a conversation's name is empty; give it one")
    return clean


def check_size(position: int, turns: Sequence[Turn]) -> None:
    """Raise UiError if a conversation of `position` messages cannot take these."""
    if position + len(turns) > MAX_TURNS:
        raise UiError(f"expected at most {MAX_TURNS:,} messages in a conversation; begin a new one")
    for place, turn in enumerate(turns, position + 1):
        if len(turn.content) > MAX_CONTENT:
            raise UiError(
                f"message {place}: expected at most {MAX_CONTENT:,} characters, found {len(turn.content):,}; shorten it"
            )


def folded(text: str) -> str:
    """The text for searching: without case and accents."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def _clean(text: str) -> str:
    """Without control characters, and without halves of characters, which cannot be written as UTF-8."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def _touched(database: sqlite3.Connection, owner: str, conversation: str, now: float) -> bool:
    changed = database.execute(
        "UPDATE conversations SET updated = ? WHERE owner = ? AND id = ?", (now, owner, conversation)
    )
    return changed.rowcount > 0


def _values(turn: Turn) -> tuple[str | int | float | None, ...]:
    """In the order of TURN."""
    content = turn.content.encode("utf-8", "replace").decode()  # a lone surrogate cannot be kept
    return (
        *(turn.role, content, turn.finish, turn.model),
        *(turn.prompt_tokens, turn.completion_tokens, turn.tokens_per_s),
    )


def _kept(turn: Turn, number: int) -> Turn:
    return replace(turn, id=number, routing=None, has_routing=turn.routing is not None)


def _conversation(row: tuple[str, str, float, float, str, str]) -> Conversation:
    identity, title, created, updated, model, settings = row
    return Conversation(
        identity, title, created, updated, model, settings_module.from_json(json.loads(settings), "the conversation")
    )
