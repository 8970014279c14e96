"""Files: refused before anything runs, written whole, over those that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.errors import BackendError, RequestError
from octuor.routing import plot
from octuor.tools.routing.analysis import Analysis
from octuor.tools.routing.outputs import Outputs, write_outputs


def test_all_kinds(analysis: Analysis, tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "a.png", tmp_path / "a.svg", tmp_path / "a.csv", tmp_path / "a.html")
    outputs.check()
    (tmp_path / "a.html").write_text("old")
    told: list[tuple[str, int, int]] = []
    written = write_outputs(analysis, outputs, [0], on_file=lambda *step: told.append(step))
    assert told == [(path.name, n, 10) for n, path in enumerate(written)]
    parts = ("experts", "repetition", "text")
    names = [f"a-{part}.{kind}" for kind in ("png", "svg", "csv") for part in parts]
    assert [path.name for path in written] == [*names, "a.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "a.html"])
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".csv": b"", ".html": b"<!doctype html>"}
    assert all(path.read_bytes().startswith(begins[path.suffix]) for path in written)


def test_what_cannot_be_written_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"--png: expected a file that ends in \.png"):
        Outputs(png=tmp_path / "a.jpg").check()
    with pytest.raises(RequestError, match="--html: expected the folder"):
        Outputs(html=tmp_path / "none" / "a.html").check()
    monkeypatch.setattr(plot, "find_spec", lambda name: None)  # noqa: ARG005
    Outputs(csv=tmp_path / "a.csv").check()
    with pytest.raises(BackendError, match="matplotlib"):
        Outputs(html=tmp_path / "a.html").check()
