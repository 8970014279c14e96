"""The store: keys are made, found and revoked, usage adds up, and several processes may do all of it at once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import environment
from octuor.accounts.database import FILE_NAME
from octuor.accounts.keys import ID_LENGTH, LOCAL, digest_of, id_of, make_secret
from octuor.accounts.store import Entry, Outcome, Store, UsageRow, open_store
from octuor.errors import AccountError

NOON = 1_772_452_800.0  # 2026-03-02 12:00 UTC
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as store:
        yield store


def refusal(message: str) -> AbstractContextManager[pytest.ExceptionInfo[AccountError]]:
    return pytest.raises(AccountError, match=message)


# ---- keys ----------------------------------------------------------------------------------------


def test_a_key_is_kept_as_it_was_made(store: Store) -> None:
    secret, key = store.create_key(
        "web", requests_per_minute=60, tokens_per_minute=10**6, models=["b", "a", "b"], expires_at=4_000_000_000
    )
    assert store.list_keys() == [key]
    assert (key.id, key.name, key.revoked_at) == (id_of(secret), "web", None)
    assert (key.requests_per_minute, key.tokens_per_minute, key.expires_at) == (60, 10**6, 4_000_000_000)
    assert key.models == frozenset({"a", "b"})
    _, plain = store.create_key("plain")
    assert (plain.requests_per_minute, plain.tokens_per_minute, plain.models, plain.expires_at) == (None,) * 4
    assert store.list_keys() == [key, plain]


def test_no_file_holds_the_secret(tmp_path: Path, store: Store) -> None:
    secret, key = store.create_key("web")
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.id.encode() in data
    assert digest_of(secret) in data
    assert secret.encode() not in data
    assert secret[ID_LENGTH:].encode() not in data


def test_a_name_is_one_living_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create_key("web")
    with refusal("'web' is the name of another key; choose one, or revoke that key first"):
        store.create_key("web")
    store.revoke("web")
    store.create_key("web", expires_at=4_000_000_000)
    with refusal("is the name of another key"):
        store.create_key("web")
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    store.create_key("web")
    assert [key.name for key in store.list_keys()] == ["web"] * 3


def test_a_bad_key_is_not_made(store: Store) -> None:
    with refusal("name of a key: expected"):
        store.create_key("")
    with refusal("requests a minute of a key: expected"):
        store.create_key("web", requests_per_minute=0)
    with refusal("expiry of a key: expected a time to come"):
        store.create_key("web", expires_at=1)
    with refusal("models of a key: expected one name or more"):
        store.create_key("web", models=[])
    assert store.list_keys() == []


def test_ids_differ_even_if_chance_will_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_secret(), make_secret()
    drawn = iter([first, first, id_of(first) + "x" * 32, second])
    monkeypatch.setattr("octuor.accounts.store.make_secret", lambda: next(drawn))
    assert store.create_key("a")[0] == first
    assert store.create_key("b")[0] == second


@pytest.mark.parametrize("by", ["name", "id", "secret"])
def test_revoking(store: Store, by: str) -> None:
    secret, key = store.create_key("web")
    _, other = store.create_key("other")
    before = store.revision()
    (revoked,) = store.revoke({"name": key.name, "id": key.id, "secret": secret}[by])
    assert revoked.id == key.id
    assert revoked.revoked_at is not None
    assert store.list_keys() == [revoked, other]
    assert store.revision() > before
    with refusal(f"'{key.id if by != 'name' else key.name}' was revoked before") as caught:
        store.revoke(secret if by == "secret" else key.name if by == "name" else key.id)
    assert secret[ID_LENGTH:] not in str(caught.value)


def test_a_name_revokes_the_expired_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create_key("web", expires_at=4_000_000_000)
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    store.create_key("web")
    assert len(store.revoke("web")) == 2


def test_nobody_to_revoke(store: Store) -> None:
    store.create_key("web")
    secret = make_secret()
    for who in ("Web", "", LOCAL.name, "sk-", id_of(secret), secret):
        with refusal("no key has the name or id .*; see `octuor keys list`") as caught:
            store.revoke(who)
        assert secret[ID_LENGTH:] not in str(caught.value)


def test_the_revision_tells_of_other_processes_too(tmp_path: Path, store: Store) -> None:
    seen = [store.revision()]
    with open_store(tmp_path) as other:
        other.create_key("web")
        seen.append(store.revision())
        other.revoke("web")
        seen.append(store.revision())
        other.add([Entry("sk-1", "m", 1, 0, 1, "ok")], NOON)
        assert store.revision() == seen[-1]  # usage is no change of keys
    other_program = sqlite3.connect(tmp_path / FILE_NAME)  # whoever changes them, and however
    with other_program:
        other_program.execute("DELETE FROM keys")
    other_program.close()
    seen.append(store.revision())
    assert seen == sorted(set(seen))
    assert store.stored_keys() == (seen[-1], {})


# ---- usage ---------------------------------------------------------------------------------------


def test_usage_by_day_key_and_model(store: Store) -> None:
    _, web = store.create_key("web")
    _, bot = store.create_key("bot")
    store.add([Entry(web.id, "m", 10, 4, 20, "ok"), Entry(web.id, "m", 1, 0, 2, "error")], NOON)
    store.add([Entry(web.id, "m", 5, 0, 0, "cancelled")], NOON)
    store.add([Entry(web.id, "n", 7, 0, 7, "ok"), Entry(bot.id, "m", 3, 3, 3, "ok")], NOON)
    store.add([Entry(LOCAL.id, "m", 8, 0, 8, "ok")], NOON + DAY_S)
    today, tomorrow = "2026-03-02", "2026-03-03"
    rows = [
        UsageRow(today, bot.id, "bot", "m", 1, 0, 0, 3, 3, 3),
        UsageRow(today, web.id, "web", "m", 3, 1, 1, 16, 4, 22),
        UsageRow(today, web.id, "web", "n", 1, 0, 0, 7, 0, 7),
        UsageRow(tomorrow, LOCAL.id, "local", "m", 1, 0, 0, 8, 0, 8),
    ]
    assert store.usage() == rows
    assert store.usage("web") == store.usage(web.id) == rows[1:3]
    assert store.usage("local") == rows[3:]
    assert store.usage(since=date(2026, 3, 3)) == rows[3:]
    assert store.usage("bot", since=date(2026, 3, 3)) == []
    with refusal("no key has the name or id 'nobody'"):
        store.usage("nobody")


def test_a_day_ends_at_midnight_utc(store: Store) -> None:
    midnight = NOON + DAY_S / 2
    for at in (midnight - 0.001, midnight):
        store.add([Entry(LOCAL.id, "m", 1, 0, 1, "ok")], at)
    assert [row.day for row in store.usage()] == ["2026-03-02", "2026-03-03"]


def test_a_revoked_key_keeps_its_usage(store: Store) -> None:
    for tokens in (5, 6):
        _, key = store.create_key("web")
        store.add([Entry(key.id, "m", tokens, 0, 1, "ok")], NOON)
        store.revoke("web")
    assert sorted(row.prompt_tokens for row in store.usage("web")) == [5, 6]
    assert {row.name for row in store.usage()} == {"web"}


ENTRIES = st.lists(
    st.builds(
        Entry,
        st.sampled_from(["sk-a", "sk-b", LOCAL.id]),
        st.sampled_from(["m", "n"]),
        st.integers(0, 10**9),
        st.integers(0, 10**9),
        st.integers(0, 10**9),
        st.sampled_from(get_args(Outcome)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ENTRIES, max_size=4))
def test_usage_is_the_sum_of_its_entries(tmp_path_factory: pytest.TempPathFactory, groups: list[list[Entry]]) -> None:
    """However they are grouped into commits."""
    with open_store(tmp_path_factory.mktemp("usage")) as store:
        for group in groups:
            store.add(group, NOON)
        rows = store.usage()
    entries = [entry for group in groups for entry in group]
    assert {(row.key_id, row.model) for row in rows} == {(entry.key_id, entry.model) for entry in entries}
    for row in rows:
        mine = [entry for entry in entries if (entry.key_id, entry.model) == (row.key_id, row.model)]
        assert row.requests == len(mine)
        assert row.errors == sum(entry.outcome == "error" for entry in mine)
        assert row.cancelled == sum(entry.outcome == "cancelled" for entry in mine)
        assert row.prompt_tokens == sum(entry.prompt_tokens for entry in mine)
        assert row.cached_tokens == sum(entry.cached_tokens for entry in mine)
        assert row.completion_tokens == sum(entry.completion_tokens for entry in mine)


# ---- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["deleted", "replaced"])
def test_a_database_that_is_no_longer_there(tmp_path: Path, what: str) -> None:
    """SQLite would go on writing into the deleted file, and nobody would ever see it again."""
    with open_store(tmp_path) as store:
        path = tmp_path / FILE_NAME
        if what == "replaced":
            (tmp_path / "backup").write_bytes(path.read_bytes())
            os.replace(tmp_path / "backup", path)
        else:
            path.unlink()
        for use in (store.list_keys, store.revision, store.usage, lambda: store.add([], NOON)):
            with refusal("were moved or replaced while they were in use; start again"):
                use()


def test_a_backup_while_it_is_in_use(tmp_path: Path, store: Store) -> None:
    """By SQLite's own means, as docs/keys.md has it: what was written is in it, though not in the main file yet."""
    secret, key = store.create_key("web")
    store.add([Entry(key.id, "m", 1, 0, 1, "ok")], NOON)
    (tmp_path / "copy").mkdir()
    source, target = sqlite3.connect(tmp_path / FILE_NAME), sqlite3.connect(tmp_path / "copy" / FILE_NAME)
    source.backup(target)
    source.close()
    target.close()
    with open_store(tmp_path / "copy") as copy:
        assert copy.list_keys() == [key]
        assert copy.usage() == store.usage()
        assert copy.stored_keys()[1][key.id].digest == digest_of(secret)


WRITER = """
import sys
from pathlib import Path
from typing import get_args
from octuor.accounts.store import Entry, open_store
with open_store(Path(sys.argv[1])) as store:
    for i in range(150):
        store.add([Entry("sk-1", "m", 3, 1, 2, "ok"), Entry("sk-1", f"m{i % 3}", 1, 0, 1, "error")], 1772452800.0)
"""


def test_processes_add_up(tmp_path: Path) -> None:
    """Servers and the command line use one database at the same time, and none of it is lost."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with open_store(tmp_path) as store, subprocess.Popen(command, env=environment()) as first:
        with subprocess.Popen(command, env=environment()) as second:
            made = [store.create_key(f"key {i}")[1] for i in range(20)]
            for key in made[:10]:
                store.revoke(key.id)
            assert second.wait(timeout=60) == 0
        assert first.wait(timeout=60) == 0
        assert [(row.model, row.requests, row.errors, row.prompt_tokens) for row in store.usage()] == [
            ("m", 300, 0, 900),
            ("m0", 100, 100, 100),
            ("m1", 100, 100, 100),
            ("m2", 100, 100, 100),
        ]
        assert [key.revoked_at is not None for key in store.list_keys()] == [True] * 10 + [False] * 10
