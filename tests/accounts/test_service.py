"""The accounts as a server sees them: who may come in, what is counted, and that a secret is never told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest

from command_line import environment
from octuor.accounts import LOCAL, Accounts, Admission, Clock, Key, open_accounts, open_store
from octuor.accounts.database import FILE_NAME
from octuor.accounts.keys import ALPHABET, ID_LENGTH, make_secret
from octuor.accounts.service import POLL_S
from octuor.errors import AccountError, AccountErrorKind

NOON = 1_772_452_800.0  # 2026-03-02 12:00 UTC
LATER = 4_000_000_000
WAIT_S = 30.0


@dataclass
class Hands:
    """A clock that is set by hand."""

    now: float = NOON
    steady_ns: int = 0
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(lambda: self.now, lambda: self.steady_ns)


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def accounts(tmp_path: Path, hands: Hands) -> Iterator[Accounts]:
    with patch("octuor.accounts.service.POLL_S", 0.02), open_accounts(tmp_path, clock=hands.clock) as accounts:
        yield accounts


def create(home: Path, name: str = "web", **limits: object) -> str:
    """Make a key as another process would."""
    with open_store(home) as store:
        return store.create_key(name, **limits)[0]  # type: ignore[arg-type]


def revoke(home: Path, who: str) -> None:
    with open_store(home) as store:
        store.revoke(who)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the accounts' thread does."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refusal(kind: AccountErrorKind, call: Callable[[], object]) -> AccountError:
    with pytest.raises(AccountError) as caught:
        call()
    assert caught.value.kind == kind
    assert (caught.value.retry_after_s is not None) == (kind == "rate_limited")
    return caught.value


def refused(accounts: Accounts, secret: str | None) -> str | None:
    """The kind of error that a secret gets; None: it is good."""
    try:
        accounts.authenticate(secret)
    except AccountError as error:
        return error.kind
    return None


# ---- who is it -----------------------------------------------------------------------------------


def test_without_any_key_everybody_is_local(accounts: Accounts) -> None:
    """Clients that must send a key send any: it does not matter."""
    assert not accounts.has_keys()
    for secret in (None, "", "EMPTY", "sk-whatever", make_secret()):
        assert accounts.authenticate(secret) == LOCAL


def test_a_key_is_known_by_its_secret(tmp_path: Path) -> None:
    secret = create(tmp_path, "web", requests_per_minute=5, models=["m"])
    other = create(tmp_path, "other")
    with open_accounts(tmp_path) as accounts:
        assert accounts.has_keys()
        key = accounts.authenticate(secret)
        assert (key.name, key.requests_per_minute, key.models) == ("web", 5, frozenset({"m"}))
        assert accounts.authenticate(other).name == "other"
        assert "found none" in str(refusal("invalid", lambda: accounts.authenticate(None)))


def test_what_is_no_key(tmp_path: Path) -> None:
    secret, other = create(tmp_path), create(tmp_path, "other")
    changed = ALPHABET[(ALPHABET.index(secret[-1]) + 1) % len(ALPHABET)]
    wrong = [
        "", "sk-", secret[:-1], secret + " ", secret + "\0", " " + secret, secret[:-1] + changed, secret.swapcase(),
        secret[:ID_LENGTH], secret[:ID_LENGTH] + other[ID_LENGTH:], make_secret(), "x" * 100_000, "\ud800", "ключ",
    ]  # fmt: skip
    with open_accounts(tmp_path) as accounts:
        messages = {str(refusal("invalid", lambda text=text: accounts.authenticate(text))) for text in wrong}  # type: ignore[misc]
    assert messages == {"no such API key; ask those who run this server for one"}


def test_expiry(tmp_path: Path, hands: Hands) -> None:
    secret = create(tmp_path, expires_at=LATER)
    with open_accounts(tmp_path, clock=hands.clock) as accounts:
        hands.now = LATER - 0.001
        assert accounts.authenticate(secret).name == "web"
        hands.now = LATER
        assert "key 'web' has expired" in str(refusal("expired", lambda: accounts.authenticate(secret)))
        refusal("invalid", lambda: accounts.authenticate(secret[:-1]))  # strangers are not told


def test_revocation(tmp_path: Path) -> None:
    secret = create(tmp_path)
    revoke(tmp_path, "web")
    with open_accounts(tmp_path) as accounts:
        assert "key 'web' was revoked" in str(refusal("revoked", lambda: accounts.authenticate(secret)))
        refusal("invalid", lambda: accounts.authenticate(secret[:-1]))


def test_revoking_the_last_key_does_not_open_the_server(tmp_path: Path) -> None:
    create(tmp_path)
    revoke(tmp_path, "web")
    with open_accounts(tmp_path) as accounts:
        assert accounts.has_keys()
        refusal("invalid", lambda: accounts.authenticate(None))


def test_a_running_server_sees_what_others_do(tmp_path: Path, accounts: Accounts) -> None:
    first = create(tmp_path, "first")
    until(lambda: accounts.has_keys())
    assert accounts.authenticate(first).name == "first"
    refusal("invalid", lambda: accounts.authenticate(None))
    second = create(tmp_path, "second")
    until(lambda: refused(accounts, second) is None)
    revoke(tmp_path, "first")
    until(lambda: refused(accounts, first) == "revoked")
    assert refused(accounts, second) is None


def test_a_running_server_sees_the_command_line(tmp_path: Path, accounts: Accounts) -> None:
    assert POLL_S <= 0.5  # what others do is known within a second
    env = {**environment(), "OCTUOR_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "octuor", "keys"]
    made = subprocess.run([*command, "create", "web"], env=env, capture_output=True, text=True, check=True)
    until(lambda: accounts.has_keys() and refused(accounts, made.stdout.strip()) is None)
    subprocess.run([*command, "revoke", "web"], env=env, capture_output=True, check=True)
    until(lambda: refused(accounts, made.stdout.strip()) == "revoked")


def test_how_a_secret_is_compared(tmp_path: Path) -> None:
    """One digest of the whole secret and one comparison in constant time, whether or not there is such an id."""
    secret = create(tmp_path)
    wrong = [secret[:-1] + "!", make_secret(), "", "sk-", secret[:ID_LENGTH], "x" * len(secret)]
    with (
        open_accounts(tmp_path) as accounts,
        patch("octuor.accounts.keys.hashlib.sha256", wraps=hashlib.sha256) as sha256,
        patch("octuor.accounts.service.hmac.compare_digest", wraps=hmac.compare_digest) as compare,
    ):
        for n_calls, text in enumerate([secret, *wrong], 1):
            assert (refused(accounts, text) is None) == (text == secret)
            assert sha256.call_count == compare.call_count == n_calls
            assert sha256.call_args.args == (text.encode(),)
            assert [len(digest) for digest in compare.call_args.args] == [32, 32]


# ---- may it --------------------------------------------------------------------------------------


def test_models(accounts: Accounts) -> None:
    key = Key("sk-1", "web", models=frozenset({"mistral-tiny"}))
    accounts.admit(key, "mistral-tiny", 1)
    accounts.admit(key, "mistralai/Mistral-7B", 1, names=["open-mistral-7b", "mistral-tiny"])
    error = refusal("model_not_allowed", lambda: accounts.admit(key, "mixtral", 1, names=["dummy"]))
    assert str(error) == "key 'web' may not use the model 'mixtral'"


def test_limits(accounts: Accounts, hands: Hands) -> None:
    key = Key("sk-1", "web", requests_per_minute=2, tokens_per_minute=600)
    accounts.admit(key, "m", 100).finish(completion_tokens=1100)
    error = refusal("rate_limited", lambda: accounts.admit(key, "m", 1))
    assert error.retry_after_s == pytest.approx(60, abs=1e-6)
    hands.steady_ns += 61 * 10**9
    accounts.admit(key, "m", 1)


def test_a_model_that_is_not_allowed_costs_nothing(accounts: Accounts) -> None:
    key = Key("sk-1", "web", requests_per_minute=1, models=frozenset({"m"}))
    for _ in range(3):
        refusal("model_not_allowed", lambda: accounts.admit(key, "n", 1))
    accounts.admit(key, "m", 1)


# ---- what has it used ----------------------------------------------------------------------------


def usage(home: Path) -> list[tuple[str, str, int, int, int, int, int, int]]:
    with open_store(home) as store:
        return [
            (row.name, row.model, row.requests, row.errors, row.cancelled,
             row.prompt_tokens, row.cached_tokens, row.completion_tokens)
            for row in store.usage()
        ]  # fmt: skip


def test_what_is_finished_is_written_down(tmp_path: Path, accounts: Accounts) -> None:
    create(tmp_path)
    (key,) = open_keys(tmp_path)

    async def answer(prompt_tokens: int, **end: object) -> None:
        admission = accounts.admit(key, "m", prompt_tokens)
        await asyncio.wrap_future(admission.finish(**end))  # type: ignore[arg-type]

    asyncio.run(answer(10, completion_tokens=5, cached_tokens=8))
    assert usage(tmp_path) == [("web", "m", 1, 0, 0, 10, 8, 5)]
    asyncio.run(answer(1, completion_tokens=0, outcome="error"))
    asyncio.run(answer(1, completion_tokens=2, outcome="cancelled"))
    accounts.admit(LOCAL, "m", 7).finish(completion_tokens=7).result(WAIT_S)
    assert usage(tmp_path) == [("local", "m", 1, 0, 0, 7, 0, 7), ("web", "m", 3, 1, 1, 12, 8, 7)]


def open_keys(home: Path) -> list[Key]:
    with open_store(home) as store:
        return store.list_keys()


def test_an_admission_ends_once(tmp_path: Path, accounts: Accounts) -> None:
    """So that `finish(outcome="cancelled")` may stand in every `finally`."""
    key = Key("sk-1", "web", tokens_per_minute=100)
    admission = accounts.admit(key, "m", 10)
    first = admission.finish(completion_tokens=89)
    assert admission.finish(completion_tokens=1000, outcome="cancelled") is first
    admission.withdraw()
    first.result(WAIT_S)
    assert usage(tmp_path) == [("sk-1", "m", 1, 0, 0, 10, 0, 89)]
    accounts.admit(key, "m", 1)
    refusal("rate_limited", lambda: accounts.admit(key, "m", 1))


def test_what_is_withdrawn_was_never_there(tmp_path: Path, accounts: Accounts) -> None:
    key = Key("sk-1", "web", requests_per_minute=1, tokens_per_minute=1)
    for _ in range(5):
        admission = accounts.admit(key, "m", 1000)
        admission.withdraw()
        admission.withdraw()
        admission.finish(completion_tokens=1000).result(0)
    accounts.admit(key, "m", 1).finish(completion_tokens=1).result(WAIT_S)
    assert [row[2] for row in usage(tmp_path)] == [1]


def test_threads_end_an_admission_once(tmp_path: Path, accounts: Accounts) -> None:
    admissions = [accounts.admit(LOCAL, "m", 1) for _ in range(50)]

    def finish_all() -> None:
        for admission in admissions:
            admission.finish(completion_tokens=1)

    threads = [threading.Thread(target=finish_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for admission in admissions:
        admission.finish(completion_tokens=1).result(WAIT_S)
    assert usage(tmp_path) == [("local", "m", 50, 0, 0, 50, 0, 50)]


def test_a_request_belongs_to_the_day_on_which_it_ended(tmp_path: Path, accounts: Accounts, hands: Hands) -> None:
    admission = accounts.admit(LOCAL, "m", 1)
    hands.now += 86_400
    admission.finish(completion_tokens=1).result(WAIT_S)
    with open_store(tmp_path) as store:
        assert [row.day for row in store.usage()] == ["2026-03-03"]


def test_closing_waits_for_what_was_finished(tmp_path: Path) -> None:
    with open_accounts(tmp_path) as accounts:
        futures = [accounts.admit(LOCAL, "m", 1).finish(completion_tokens=1) for _ in range(100)]
        late = accounts.admit(LOCAL, "m", 1)
    assert all(future.done() for future in futures)
    assert [row[2] for row in usage(tmp_path)] == [100]
    error = late.finish(completion_tokens=1).exception(0)
    assert isinstance(error, AccountError)
    assert error.kind == "state"


def test_a_database_that_goes_away(tmp_path: Path, accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is acknowledged that is not kept; the keys that were read stay good; the log says so once."""
    secret = create(tmp_path)
    until(lambda: accounts.has_keys())
    (tmp_path / FILE_NAME).unlink()
    until(lambda: bool(caplog.records))
    admission = accounts.admit(accounts.authenticate(secret), "m", 1)
    error = admission.finish(completion_tokens=1).exception(WAIT_S)
    assert isinstance(error, AccountError)
    assert (error.kind, "moved or replaced" in str(error)) == ("state", True)
    polls, revision = threading.Semaphore(0), accounts._store.revision

    def counted() -> int:
        polls.release()
        return revision()

    with patch.object(accounts._store, "revision", counted):
        assert all(polls.acquire(timeout=WAIT_S) for _ in range(3))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "keys made or revoked from now on are not seen" in caplog.text


# ---- secrets stay secret -------------------------------------------------------------------------


def test_a_secret_is_never_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = create(tmp_path, requests_per_minute=1)
    told: list[object] = []
    with open_accounts(tmp_path) as accounts:
        key = accounts.authenticate(secret)
        admission = accounts.admit(key, "m", 1)
        told += [key, str(key), pickle.dumps(key), accounts, admission, vars(admission), vars(accounts), accounts._keys]
        told.append(refusal("rate_limited", lambda: accounts.admit(key, "m", 1)))
        told.append(refusal("invalid", lambda: accounts.authenticate(secret[:-1])))
        admission.finish(completion_tokens=1).result(WAIT_S)
        revoke(tmp_path, secret)
        until(lambda: refused(accounts, secret) == "revoked")
        told.append(refusal("revoked", lambda: accounts.authenticate(secret)))
    with open_store(tmp_path) as store:
        told += [store.list_keys(), store.usage(), store, vars(store)]
    told += [record.getMessage() for record in caplog.records]
    assert isinstance(admission, Admission)
    assert all(secret[ID_LENGTH:-1] not in repr(thing) and secret[ID_LENGTH:-1] not in str(thing) for thing in told)
