"""octuor keys: what it prints where, for people and for programs, and that nothing else prints a key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from command_line import Done, environment, octuor
from octuor.accounts.keys import ID_LENGTH
from octuor.accounts.store import Entry, open_store
from octuor.cli.keys import parse_expiry
from octuor.errors import AccountError

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTUOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def keys(*args: object) -> Done:
    done = octuor("keys", *args)
    assert done.code == 0, done.err
    return done


def refusal(*args: object) -> str:
    done = octuor("keys", *args)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    return done.err.removeprefix("octuor: ")


def listed() -> list[dict[str, Any]]:
    done = keys("list", "--json")
    assert (done.err, done.out.count("\n")) == ("", 1)
    found: list[dict[str, Any]] = json.loads(done.out)["keys"]
    return found


def use(name: str, prompt_tokens: int, *, days_ago: int = 0, model: str = "m") -> None:
    with open_store() as store:
        (key_id,) = [key.id for key in store.list_keys() if key.name == name] or ["local"]
        at = datetime.now(UTC) - timedelta(days=days_ago)
        store.add([Entry(key_id, model, prompt_tokens, 1, 5, "ok")], at.timestamp())


# ---- create, list, revoke ------------------------------------------------------------------------


def test_create_prints_the_key_alone(home: Path) -> None:
    done = keys("create", "web")
    assert re.fullmatch(r"sk-[A-Za-z0-9]{40}\n", done.out)
    secret = done.out.strip()
    assert secret[ID_LENGTH:] not in done.err
    assert f"key 'web' is in {home}/accounts.sqlite3" in done.err
    assert "the only time that it is shown" in done.err
    for after in (keys("list"), keys("list", "--json"), keys("usage"), keys("revoke", "web"), keys("list")):
        assert secret[ID_LENGTH:] not in after.out + after.err


def test_a_keys_terms() -> None:
    done = keys(
        "create", "web", "--requests-per-minute", 60, "--tokens-per-minute", 9000,
        "--models", " b, a,", "--expires", "2999-01-01",
    )  # fmt: skip
    assert (
        "(60 requests a minute; 9,000 tokens a minute; models a, b; expires 2999-01-01 00:00 UTC)" in done.err
    )  # fmt: skip
    (key,) = listed()
    assert key["id"] == done.out[:ID_LENGTH]
    assert (key["name"], key["requests_per_minute"], key["tokens_per_minute"]) == ("web", 60, 9000)
    assert (key["models"], key["expires_at"]) == (["a", "b"], "2999-01-01T00:00:00+00:00")
    assert (key["revoked_at"], key["good"]) == (None, True)
    assert datetime.fromisoformat(key["created_at"]) <= datetime.now(UTC)


def test_the_list_for_people() -> None:
    done = keys("list")
    assert (done.out, "no keys; octuor keys create NAME makes one" in done.err) == ("", True)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    made = [
        keys("create", "[red] team", "--models", "mistralai/Mixtral-8x7B-Instruct-v0.1,open-mixtral-8x7b"),
        keys("create", "bot", "--requests-per-minute", 1000, "--expires", "2999-01-01"),
        keys("create", "gone"),
    ]
    ids = [done.out[:ID_LENGTH] for done in made]
    keys("revoke", "gone")
    done = keys("list")
    assert done.err == ""
    first, *rows = ("  ".join(re.split(r" {2,}", line.strip())) for line in done.out.splitlines())
    assert first == "key  name  made  state  models  requests/min  tokens/min"
    assert rows == [
        f"{ids[0]}…  [red] team  {today}  good  mistralai/Mixtral-8x7B-Instruct-v0.1, open-mixtral-8x7b  -  -",
        f"{ids[1]}…  bot  {today}  good until 2999-01-01  all  1,000  -",
        f"{ids[2]}…  gone  {today}  revoked {today}  all  -  -",
    ]


def test_an_expired_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: (now - timedelta(days=3)).timestamp())
        with open_store() as store:
            store.create_key("web", expires_at=int((now - timedelta(days=1)).timestamp()))
    assert not listed()[0]["good"]
    assert f"expired {now - timedelta(days=1):%Y-%m-%d}" in keys("list").out


@pytest.mark.parametrize("n_characters", [3, ID_LENGTH, None], ids=["name", "id", "key"])
def test_revoke(n_characters: int | None) -> None:
    """By name, by id, or by the key itself as it was found where it should not be."""
    secret = keys("create", "sec").out.strip()
    who = "sec" if n_characters == 3 else secret[:n_characters]
    done = keys("revoke", who)
    assert (done.out, done.err) == (
        "", f"octuor: revoked 'sec' ({secret[:ID_LENGTH]}…); servers know within a second\n"
    )  # fmt: skip
    assert not listed()[0]["good"]
    assert "was revoked before" in refusal("revoke", who)


def test_what_cannot_be_done() -> None:
    secret = keys("create", "web").out.strip()
    assert "'web' is the name of another key" in refusal("create", "web")
    assert "name of a key: expected" in refusal("create", "sk-abc")
    assert "models of a key: expected one name or more" in refusal("create", "bot", "--models", " , ")
    assert "--expires: expected a date such as 2027-01-01" in refusal("create", "bot", "--expires", "soon")
    assert "see `octuor keys list`" in refusal("revoke", "bot")
    assert "no key has the name or id 'local'" in refusal("revoke", "local")
    assert "no key has the name or id 'bot'" in refusal("usage", "bot")
    assert secret[ID_LENGTH:] not in refusal("create", secret)
    assert [key["name"] for key in listed()] == ["web"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["create"], "Missing argument"),
        (["create", "web", "--requests-per-minute", "0"], "Invalid value for '--requests-per-minute'"),
        (["create", "web", "--tokens-per-minute", "many"], "Invalid value for '--tokens-per-minute'"),
        (["usage", "--days", "0"], "Invalid value for '--days'"),
        (["forge"], "No such command 'forge'"),
    ],
)
def test_usage_errors_exit_2(args: list[str], says: str) -> None:
    done = octuor("keys", *args)
    assert (done.code, done.out) == (2, "")
    assert says in " ".join(done.err.split())


def test_a_home_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OCTUOR_HOME", str(tmp_path / "file"))
    for command in (["create", "web"], ["list"], ["revoke", "web"], ["usage"]):
        assert "expected a folder, found a file); set OCTUOR_HOME" in refusal(*command)


# ---- usage ---------------------------------------------------------------------------------------


def test_usage_for_programs() -> None:
    keys("create", "web")
    use("web", 10)
    use("web", 20)
    use("local", 7, days_ago=29)
    use("local", 9, days_ago=30)
    done = keys("usage", "--json")
    report = json.loads(done.out)
    today = datetime.now(UTC).date()
    assert report["since"] == str(today - timedelta(days=29))
    assert [(row["day"], row["name"], row["prompt_tokens"]) for row in report["usage"]] == [
        (str(today - timedelta(days=29)), "local", 7),
        (str(today), "web", 30),
    ]
    assert report["usage"][1] == {
        "day": str(today), "key_id": listed()[0]["id"], "name": "web", "model": "m", "requests": 2, "errors": 0,
        "cancelled": 0, "prompt_tokens": 30, "cached_tokens": 2, "completion_tokens": 10,
    }  # fmt: skip
    assert len(json.loads(keys("usage", "--json", "--days", 31).out)["usage"]) == 3
    assert len(json.loads(keys("usage", "web", "--json", "--days", 31).out)["usage"]) == 1
    assert len(json.loads(keys("usage", "local", "--json", "--days", 31).out)["usage"]) == 2
    assert json.loads(keys("usage", "local", "--json", "--days", 1).out)["usage"] == []


def test_usage_for_people() -> None:
    done = keys("usage", "--days", 1)
    today = datetime.now(UTC).date()
    assert (done.out, done.err) == ("", f"octuor: nothing was used since {today}\n")
    use("local", 1234, model="[m]")
    rows = [line.split() for line in keys("usage").out.splitlines()]
    assert rows == [
        ["day", "name", "model", "requests", "errors", "cancelled", "prompt", "cached", "completion"],
        [str(today), "local", "[m]", "1", "0", "0", "1,234", "1", "5"],
    ]
    use("local", 1, days_ago=1)
    rows = [line.split() for line in keys("usage").out.splitlines()]
    assert rows[3] == ["all", "2", "0", "0", "1,235", "2", "10"]


# ---- dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-01", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2026-03-03", datetime(2026, 3, 3, tzinfo=UTC)),
        ("12h", datetime(2026, 3, 3, tzinfo=UTC)),
        ("30d", datetime(2026, 4, 1, 12, tzinfo=UTC)),
        ("8w", datetime(2026, 4, 27, 12, tzinfo=UTC)),
    ],
)
def test_expiry(text: str, at: datetime) -> None:
    assert parse_expiry(text, NOW) == at


@pytest.mark.parametrize("text", ["", "d", "30", "soon", "1.5d", "2027-13-01", "2027", "9999999d", "9" * 30 + "w"])
def test_no_expiry(text: str) -> None:
    with pytest.raises(AccountError, match="--expires: expected a date such as 2027-01-01 or a time such as"):
        parse_expiry(text, NOW)


@pytest.mark.parametrize("text", ["2026-03-02", "1999-01-01", "0d", "-3d"])
def test_an_expiry_that_is_over(text: str) -> None:
    with pytest.raises(AccountError, match="--expires: expected a time to come"):
        parse_expiry(text, NOW)


# ---- what it loads -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["create"], ["list"], ["revoke"], ["usage"]])
def test_help_opens_nothing(command: list[str], home: Path) -> None:
    code = (
        "import sys\n"
        "from octuor.cli import app\n"
        "app(standalone_mode=False)\n"
        "sys.exit(str(heavy) if (heavy := {'numpy', 'sqlite3', 'octuor.accounts'} & sys.modules.keys()) else 0)"
    )
    args = [sys.executable, "-c", code, "keys", *command, "--help"]
    done = subprocess.run(args, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert not home.exists()
