"""Hundreds of bodies for each route; `make test-robust`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustness.bodies import WHOLE
from robustness.fuzz import fuzz
from robustness.pocket import PocketServer, pocket_server

N_EXAMPLES = 500


@pytest.fixture(scope="module")
def server() -> Iterator[PocketServer]:
    with pocket_server() as server:
        yield server


@pytest.mark.parametrize("path", WHOLE)
def test_no_body_breaks_the_server(server: PocketServer, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = fuzz(server, path, N_EXAMPLES)
    with capsys.disabled():
        counts = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
        print(f"\n{path}: {statuses.total()} requests: {counts}")
