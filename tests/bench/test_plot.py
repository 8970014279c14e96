"""The roofline: drawn for any report, and refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.bench import plot
from octuor.bench.plot import check_plot, plot_roofline
from octuor.errors import BackendError, RequestError

REPORT = {
    "limits": {"read_gb_per_s": 50.0, "int8_gop_per_s": 2000.0, "f32_gflop_per_s": 500.0, "bf16_gflop_per_s": None},
    "rows": [
        {"kind": "prompt", "tokens": 512, "batch": 1, "gb_per_s": 8.0, "gop_per_s": 1400.0},
        {"kind": "answer", "tokens": 64, "batch": 4, "gb_per_s": 45.0, "gop_per_s": 200.0},
    ],
    "model": {"name": "mixtral-8x7b", "layers": 8, "full_layers": 32, "format": "q4"},
    "machine": {"cpu": "a CPU", "isa": "avx2", "threads": 2},
}


@pytest.mark.parametrize(("name", "magic"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_a_roofline_is_drawn(tmp_path: Path, name: str, magic: bytes) -> None:
    check_plot(tmp_path / name)
    plot_roofline(REPORT, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_an_svg_names_rows_and_roofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    plot_roofline(REPORT, tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for label in (">512<", ">x4<", "int8 2,000", "float32 500", "8 of 32 layers"):
        assert label in text
    assert "bf16" not in text


def test_what_keeps_it_from_being_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"ends in .png or .svg, found .*x.pdf"):
        check_plot(tmp_path / "x.pdf")
    with pytest.raises(RequestError, match=r"expected the folder .*nowhere"):
        check_plot(tmp_path / "nowhere" / "x.png")
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r'pip install "octuor\[plot\]"'):
        check_plot(tmp_path / "x.png")
