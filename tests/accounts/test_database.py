"""The database file: where it is, who may read it, how it grows with versions, and what is said when it is no good."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from unittest.mock import patch

import pytest

from command_line import environment
from octuor.accounts.database import (
    APPLICATION_ID,
    MIGRATIONS,
    connect,
    default_home,
    explained,
    writing,
)
from octuor.errors import AccountError

NEXT = (*MIGRATIONS, ("ALTER TABLE keys ADD COLUMN note TEXT", "CREATE INDEX by_model ON usage (model)"))


def refusal(path: Path) -> str:
    with pytest.raises(AccountError) as caught:
        connect(path).close()
    assert caught.value.kind == "state"
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value)
    return str(caught.value)


def version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


# ---- where ---------------------------------------------------------------------------------------


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OCTUOR_HOME", "")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_home() == tmp_path / ".local/share/octuor"
    monkeypatch.setenv("XDG_DATA_HOME", "data")  # relative: not to be used
    assert default_home() == tmp_path / ".local/share/octuor"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_home() == tmp_path / "data/octuor"
    monkeypatch.setenv("OCTUOR_HOME", str(tmp_path / "mine"))
    assert default_home() == tmp_path / "mine"
    monkeypatch.setenv("OCTUOR_HOME", "~/mine")
    assert default_home() == tmp_path / "mine"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("OCTUOR_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    with pytest.raises(AccountError, match="no home folder; set OCTUOR_HOME"):
        default_home()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_look(tmp_path: Path, umask: int) -> None:
    """The files beside the database too, whatever the umask."""
    before = os.umask(umask)
    try:
        connection = connect(tmp_path / "a" / "b" / "x.sqlite3")
        with writing(connection):
            connection.execute("UPDATE revision SET n = 7")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b").iterdir()}
        connection.close()
    finally:
        os.umask(before)
    assert modes == {"x.sqlite3": 0o600, "x.sqlite3-wal": 0o600, "x.sqlite3-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    connect(tmp_path / "x.sqlite3").close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_every_commit_reaches_the_disk(tmp_path: Path) -> None:
    connection = connect(tmp_path / "x.sqlite3")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    connection.close()


# ---- versions ------------------------------------------------------------------------------------


def test_a_new_database_has_the_newest_schema(tmp_path: Path) -> None:
    connection = connect(tmp_path / "x.sqlite3")
    assert version_of(connection) == len(MIGRATIONS)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


def test_an_older_database_is_brought_forward_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    connection = connect(path)
    connection.execute("INSERT INTO usage VALUES ('2026-03-02', 'sk-1', 'm', 1, 0, 0, 5, 0, 6)")
    connection.close()
    connection = connect(path, NEXT)
    assert version_of(connection) == len(NEXT)
    assert connection.execute("SELECT note FROM keys").fetchall() == []
    assert connection.execute("SELECT prompt_tokens, completion_tokens FROM usage").fetchall() == [(5, 6)]
    connection.close()
    connect(path, NEXT).close()  # and is not brought forward twice


def test_a_step_forward_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    connect(path).close()
    with pytest.raises(AccountError, match="cannot be used"):
        connect(path, (*NEXT, ("CREATE TABLE more (n)", "CREATE TABLE keys (n)")))
    connection = connect(path)
    assert version_of(connection) == len(MIGRATIONS)
    connection.close()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    connect(path, NEXT).close()
    before = path.read_bytes()
    assert f"version {len(MIGRATIONS)} or older, found {len(NEXT)}; upgrade Octuor" in refusal(path)
    assert path.read_bytes() == before


# ---- what is no good -----------------------------------------------------------------------------


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    path.write_bytes(b"keys: none\n" * 500)
    assert "it is damaged; restore a backup, or move it away" in refusal(path)
    assert path.read_bytes() == b"keys: none\n" * 500


def test_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    connect(path).close()
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    path.write_bytes(data)
    assert "it is damaged; restore a backup, or move it away" in refusal(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    connect(path).close()
    os.truncate(path, 5000)
    assert "it is damaged" in refusal(path)


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    before = path.read_bytes()
    assert "found another program's database; set OCTUOR_HOME to another folder" in refusal(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_database_to_be(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    path.touch()
    connect(path).close()
    connect(path).close()


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.sqlite3", tmp_path / "file" / "home" / "x.sqlite3"):
        assert f"({tmp_path / 'file'}: expected a folder, found a file); set OCTUOR_HOME" in refusal(path)
    (tmp_path / "folder.sqlite3").mkdir()
    assert f"({tmp_path / 'folder.sqlite3'}: Is a directory); set OCTUOR_HOME" in refusal(tmp_path / "folder.sqlite3")


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    connection = connect(path)
    connection.execute("PRAGMA max_page_count = 1")  # SQLite's own way to run out of room

    def fill() -> None:
        with explained(path), writing(connection):
            for i in range(1000):
                row = (f"2026-03-02 {i:100}", "sk-1", "m", 1, 0, 0, 5, 0, 6)
                connection.execute("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    with pytest.raises(AccountError, match="its disk is full; make room"):
        fill()
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM usage").fetchone() == (0,)
    connection.close()


def test_a_process_that_does_not_let_go(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    first, second = connect(path), connect(path)
    second.execute("PRAGMA busy_timeout = 1")
    with (
        writing(first),
        pytest.raises(AccountError, match="another process has held it for 5 s; try again"),
        explained(path),
        writing(second),
    ):
        pytest.fail("two wrote at once")
    with writing(second):
        pass
    first.close()
    second.close()


def test_one_that_is_just_being_made(tmp_path: Path) -> None:
    """SQLite does not wait by itself where a file's journal mode is to change."""
    path = tmp_path / "x.sqlite3"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        holder.execute("ROLLBACK")

    with patch("octuor.accounts.database.time.sleep", let_go):
        connect(path).close()
    holder.close()
    assert len(waits) == 1


# ---- several processes ---------------------------------------------------------------------------

OPENER = """
import sys
from contextlib import ExitStack
from pathlib import Path
from octuor.accounts.database import connect
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
connection = connect(Path(sys.argv[1]))
print(connection.execute("SELECT count(*), max(n) FROM revision").fetchone())
"""


def test_many_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    """Each finds it made, and made once."""
    path = tmp_path / "new" / "x.sqlite3"
    command = [sys.executable, "-c", OPENER, str(path)]
    with ExitStack() as stack:
        openers = [
            stack.enter_context(subprocess.Popen(command, text=True, env=environment(), stdin=PIPE, stdout=PIPE))
            for _ in range(6)
        ]
        for opener in openers:
            stack.callback(opener.kill)  # if one fails, do not wait for the others
        for opener in openers:
            assert opener.stdout is not None
            assert opener.stdout.readline() == "ready\n"
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("go\n")
            opener.stdin.flush()
        assert [opener.communicate(timeout=60)[0] for opener in openers] == ["(1, 0)\n"] * len(openers)
