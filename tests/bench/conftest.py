"""Fixtures of the benchmark's tests."""

from __future__ import annotations

import pytest

from quick_bench import quicken


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks without their slow parts."""
    quicken(monkeypatch)
