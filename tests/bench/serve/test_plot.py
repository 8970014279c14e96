"""The picture of a load test, with whatever rows there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.bench.serve.answer import Answer
from octuor.bench.serve.plot import plot_load
from octuor.bench.serve.report import Row
from octuor.bench.serve.run import Load, Overhead
from octuor.bench.serve.session import Result, Settings

WHOLE = Answer(10.0, 12.5, (11.0, 11.0, 12.0), 3, True, 100, 100, None, "length")
SILENT = Answer(10.0, 12.5, (), 0, True, 100, 100, None, "stop")


def result(*rows: Row) -> Result:
    return Result(Settings("x", ()), "a-model", "64 tokens", rows, (), is_interrupted=False)


@pytest.mark.parametrize(("name", "magic"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_rows_are_drawn(tmp_path: Path, name: str, magic: bytes) -> None:
    rows = [Row(Load(n), (WHOLE,) * n, Overhead()) for n in (1, 4)]
    plot_load(result(*rows), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_an_svg_names_the_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    rows = (Row(Load(4), (WHOLE,), Overhead()), Row(Load(rate=2.5), (WHOLE,), Overhead()))
    plot_load(result(*rows), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for label in ("a-model: prompts of 64 tokens", ">4 streams<", ">2.5/s<", "answer tokens a second", ">p99<"):
        assert label in text


def test_rows_without_text_or_answers(tmp_path: Path) -> None:
    failed = Row(Load(4), (Answer(0.0, 1.0, error="timeout"),), Overhead())
    plot_load(result(Row(Load(1), (SILENT,), Overhead()), failed), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size
