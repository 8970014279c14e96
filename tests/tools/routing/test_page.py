"""The page: every text is text in it, it loads nothing, and it is right without its script."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from octuor.tools.routing.analysis import Analysis
from octuor.tools.routing.page import routing_page
from tools.routing.conftest import NASTY


class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and the text of each coloured column."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.columns: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        self._open.append(tag)
        if found.get("class") == "text":
            self.columns.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif self.columns and "tok" in str(self.elements[-1][1].get("class")):
            self.columns[-1] += data

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass


@pytest.fixture(scope="module")
def page(analysis: Analysis) -> str:
    return routing_page(analysis, [0, 1])


def test_no_text_is_markup(page: str) -> None:
    read = Page(page)
    assert len(read.scripts) == 2
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert "alert(1)" not in read.scripts[1]
    assert "<b>" not in page
    assert "stories &amp; &lt;b&gt;" in page
    assert "<img src=x" not in page


def test_nothing_is_loaded(page: str) -> None:
    read = Page(page)
    sources = [
        value for _, attributes in read.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(str(source).startswith(("data:image/svg+xml;base64,", "#")) for source in sources)
    assert "link" not in {tag for tag, _ in read.elements}
    assert not re.search(r"url\(|@import|https?://", page)


def test_colours_and_data_are_the_routings(page: str, analysis: Analysis) -> None:
    read, routing = Page(page), analysis.blocks[0].routing
    tokens = [attributes for _, attributes in read.elements if "data-i" in attributes]
    assert len(tokens) == 2 * len(routing)
    for n, token in enumerate(tokens):
        layer, i = divmod(n, len(routing))
        assert token["data-i"] == str(i)
        assert token["data-e"] == str(routing.experts[i, layer, 0])
        assert token["class"] == f"tok e{routing.experts[i, layer, 0]}"
    data = json.loads(read.scripts[0])
    assert data["nLayers"] == 2
    (block,) = data["blocks"]
    assert "".join(block["pieces"]) == NASTY
    assert block["experts"] == routing.experts.tolist()
    assert block["logprobs"][0] is None
    assert [len(row) for row in block["alternatives"]] == [0] + [5] * (len(routing) - 1)


def test_every_layer_can_be_chosen(page: str) -> None:
    options = [attributes for tag, attributes in Page(page).elements if tag == "option"]
    assert len(options) == 4
    assert [n for n, attributes in enumerate(options) if "selected" in attributes] == [0, 3]


def test_the_numbers_are_beside_the_pictures(page: str, analysis: Analysis) -> None:
    for tally in analysis.tallies:
        assert f"<td>{100 * tally.share()[0, 0]:.1f} %</td>" in page
        assert f"<td>{100 * tally.repetition(2)[1]:.1f} %</td>" in page
