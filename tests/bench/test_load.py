"""Other work's share of the CPUs, from a machine whose times are given."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from octuor.bench import load
from octuor.bench.load import ForeignLoad

Times = namedtuple("Times", "user system")
BEFORE = "cpu  100 20 30 1000 50 6 7 8 99 99\ncpu0 1 2 3\n"
AFTER = "cpu  300 20 80 1700 60 6 7 48 299 99\ncpu0 1 2 3\n"  # 290 busy of 1000 ticks


def test_what_others_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "STAT", stat)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    stat.write_text(BEFORE)
    monkeypatch.setattr(os, "times", lambda: Times(3.0, 1.0))
    foreign = ForeignLoad()
    stat.write_text(AFTER)
    monkeypatch.setattr(os, "times", lambda: Times(4.5, 1.4))
    assert foreign.share() == pytest.approx((2.9 - 1.9) / 10)
    monkeypatch.setattr(os, "times", lambda: Times(9.0, 9.0))  # ticks are coarse: never below nothing
    assert foreign.share() == 0


def test_a_machine_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "STAT", tmp_path / "none")
    assert ForeignLoad().share() is None
