"""Hundreds of bodies for each route; `make test-robust`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustness.bodies import WHOLE
from robustness.fuzz import fuzz
from server.http_client import Client
from server.live_client import live_client

N_EXAMPLES = 500


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with live_client(128, max_batch=8) as client:
        yield client


@pytest.mark.parametrize("path", WHOLE)
def test_no_body_breaks_the_server(client: Client, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = fuzz(client, path, N_EXAMPLES)
    with capsys.disabled():
        counts = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
        print(f"\n{path}: {statuses.total()} requests: {counts}")
