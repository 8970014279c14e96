"""Whose name a request may carry while there are no keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from octuor.accounts import Accounts, open_accounts, open_store
from octuor.server.middleware.hosts import is_own
from octuor.server.settings import ServerSettings
from server.http_client import Client

REBOUND = {"host": "rebound.example.org:8000"}


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    with open_accounts(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "a.localhost:80", "127.0.0.1:8000", "[::1]:8000", "[::1]", "192.0.2.7", ""]
)
def test_own_names(host: str) -> None:
    assert is_own(host)


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org:80", "127.0.0.1.nip.io", "notlocalhost", "[x]"])
def test_names_of_strangers(host: str) -> None:
    assert not is_own(host)


def test_a_strangers_name_is_403_and_not_for_probes(accounts: Accounts) -> None:
    client = Client(accounts=accounts)
    refused = client.get("/v1/models", headers=REBOUND)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unknown_host")
    assert client.get("/health", headers=REBOUND).status_code == 200
    assert client.get("/v1/models", headers={"host": "127.0.0.1:8000"}).status_code == 200


def test_with_keys_the_key_decides(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        secret, _ = store.create_key("alice")
    with open_accounts(tmp_path) as later:
        headers = {**REBOUND, "authorization": f"Bearer {secret}"}
        assert Client(accounts=later).get("/v1/models", headers=headers).status_code == 200


def test_on_other_addresses_names_are_the_operators_business(accounts: Accounts) -> None:
    settings = ServerSettings(host="0.0.0.0", allow_no_keys=True)
    assert Client(accounts=accounts, settings=settings).get("/v1/models", headers=REBOUND).status_code == 200
