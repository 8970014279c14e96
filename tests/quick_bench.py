"""Benchmarks of toy models without their slow parts: limits that are not measured, profiles of one run."""

from __future__ import annotations

import pytest

from octuor.bench import limits, model, run
from octuor.bench.limits import Limits

LIMITS = Limits(50.0, 2000.0, 500.0, None, {"int8": "vpdpbusd", "f32": "vfmadd231ps"})


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let benchmarks find LIMITS, profile each row once, and need no memory beside their weights."""
    for module in (run, limits):
        monkeypatch.setattr(module, "measure_limits", lambda *_: LIMITS)
    monkeypatch.setattr(run, "SETTLED_S", 0.01)
    monkeypatch.setattr(run, "PROFILE_S", 1e-9)
    monkeypatch.setattr(model, "SPARE_BYTES", 0)
