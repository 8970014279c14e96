"""Texts keep every character and every token its colour, whatever they hold."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from octuor.api import Model
from octuor.routing.coloured_text import broken
from octuor.routing.colours import expert_tint
from octuor.routing.plot import Block, plot_text

TEXTS = (
    "$x_1$ a\tb\n\n" + "long" * 30 + " 日本",
    "The mean boy chased the helicopter, and then the helicopter chased the mean boy.",
    "\n\n   \n  indented\n",
    "é",
)


@pytest.mark.parametrize("said", TEXTS)
@pytest.mark.parametrize("width", [8, 20, 46])
def test_no_character_is_lost_and_no_line_too_long(tiny: Model, said: str, width: int) -> None:
    """Formulas, tabs, long words, characters that the font lacks."""
    lines = broken(tiny.route(said, alternatives=None), width)
    shown = "".join(text for line in lines for _, _, text in line)
    expected = said.replace("\n", "↵").replace("日本", "□□")
    assert "".join(shown.split()) == "".join(expected.split())
    for line in lines:
        assert sum(len(text) for _, _, text in line) <= width + 1
        assert [at for _, at, _ in line] == [sum(len(text) for _, _, text in line[:n]) for n in range(len(line))]
    tokens = [token for line in lines for token, _, _ in line]
    assert tokens == sorted(tokens)


def test_lines_end_between_words(tiny: Model) -> None:
    lines = broken(tiny.route(TEXTS[1], alternatives=None), 24)
    shown = ["".join(text for _, _, text in line).strip() for line in lines]
    assert " ".join(shown) == TEXTS[1]


def test_every_token_has_its_colour(tiny: Model) -> None:
    routing = tiny.route(TEXTS[0], alternatives=None)
    lines = broken(routing, 20)
    figure = plot_text([Block("t", routing)], [0, 1], width=20)
    figure.draw_without_rendering()
    for layer, axes in enumerate(figure.axes):
        (boxes,) = (found for found in axes.collections if isinstance(found, PolyCollection))
        tints = [expert_tint(int(routing.experts[token, layer, 0])) for line in lines for token, _, _ in line]
        np.testing.assert_allclose(np.asarray(boxes.get_facecolor()), mpl.colors.to_rgba_array(tints))


def test_letters_stand_in_their_boxes(tiny: Model) -> None:
    """Within a letter, at the resolution that files are written in."""
    routing = tiny.route(TEXTS[1], alternatives=None)
    figure = plot_text([Block("t", routing)], [0])
    figure.set_dpi(150)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    letter = axes.get_window_extent().width / 46
    lines = broken(routing, 46)
    places = [(at, text) for line in lines for _, at, text in line if text.strip()]
    assert [shown.get_text() for shown in axes.texts] == [text.strip() for _, text in places]
    for shown, (at, text) in zip(axes.texts, places, strict=True):
        extent = shown.get_window_extent()
        left = axes.transData.transform((at, 0))[0]
        assert left - letter < extent.x0
        assert extent.x1 < left + (len(text) + 1) * letter
