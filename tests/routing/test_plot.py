"""Figures are drawn for any text, with what they have to say in them."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.patches import Rectangle

from octuor.api import Model
from octuor.errors import BackendError, RequestError
from octuor.routing import Routing, plot
from octuor.routing.plot import (
    MOST_LINES,
    check_layers,
    check_matplotlib,
    default_layers,
    plot_experts,
    plot_repetition,
)
from octuor.routing.tally import Tally


@pytest.fixture
def svg_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters stay letters in SVG files."""
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")


@pytest.mark.usefixtures("svg_text")
def test_a_routing_is_drawn(small: Routing, tmp_path: Path) -> None:
    small.plot([1]).savefig(tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for said in ("layer 1", "expert 3", "random: 25 %", "first or second choice", "&lt;b&gt;é", "&amp; co"):
        assert said in text
    assert "layer 0" not in text


@pytest.mark.usefixtures("svg_text")
def test_domains_stand_beside_chance(small: Routing, tmp_path: Path) -> None:
    tallies = [Tally.of(small, "stories"), Tally.of(small, "$code$")]
    plot_experts(tallies, [0, 1]).savefig(tmp_path / "x.svg")
    plot_repetition(tallies).savefig(tmp_path / "y.svg")
    for name, said in (("x.svg", "uniform"), ("y.svg", "random: 25 %")):
        text = (tmp_path / name).read_text()
        assert said in text
        assert "stories" in text
        assert "$code$" in text


@pytest.mark.usefixtures("svg_text")
def test_bars_are_as_high_as_the_shares(small: Routing) -> None:
    tallies = [Tally.of(small, "a"), Tally.of(small, "b")]
    for layer, axes in enumerate(plot_experts(tallies, [0, 1]).axes):
        heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
        assert heights == pytest.approx([*(100 * tallies[0].share()[layer]), *(100 * tallies[1].share()[layer])])


def test_any_number_of_domains_has_colours(small: Routing) -> None:
    tallies = [Tally.of(small, str(n)) for n in range(12)]
    colours = {line.get_color() for line in plot_repetition(tallies).axes[0].lines}
    assert len(colours) == 13


@pytest.mark.parametrize(("n_layers", "layers"), [(32, (0, 15, 31)), (6, (0, 2, 5)), (2, (0, 1)), (1, (0,))])
def test_first_middle_and_last_as_in_the_paper(n_layers: int, layers: tuple[int, ...]) -> None:
    assert default_layers(n_layers) == layers


def test_what_cannot_be_drawn_is_said(small: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="layers: expected 0 to 1, found 2"):
        small.plot([2])
    with pytest.raises(RequestError, match="found -1"):
        check_layers([-1], 2)
    with pytest.raises(RequestError, match="a layer and a token"):
        small.plot([])
    monkeypatch.setattr(plot, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(BackendError, match=r"octuor\[plot\]"):
        check_matplotlib()


def test_long_texts_are_cut(tiny: Model) -> None:
    routing = tiny.route("\n".join("abc" for _ in range(100)), alternatives=None)
    assert len(routing.plot().axes[-1].texts) <= 2 * MOST_LINES
