"""A view shows what is in the Routing, escapes all of it, and survives any text."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from octuor.routing import Alternatives, Routing
from octuor.ui.observatory_html import heat_map, percent, piece_html, repetition_chart, view
from octuor.ui.texts import LANGUAGES, Language
from routings import small_routing
from server.http_client import pocket

Attributes = dict[str, str | None]
VOID = ("input", "hr")


class Page(HTMLParser):
    """Elements in order with their attributes and the text right in them and below; checks that tags are closed."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, Attributes, list[str]]] = []
        self._open: list[int] = []
        self.feed(markup)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.found[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.found[place][2].append(data)

    def of_class(self, name: str) -> list[tuple[Attributes, str]]:
        return [(attrs, "".join(text)) for _, attrs, text in self.found if name in (attrs.get("class") or "").split()]

    def with_attribute(self, name: str) -> list[Attributes]:
        return [attrs for _, attrs, _ in self.found if name in attrs]


def say_percent(share: float) -> str:
    return percent(share, "en")


def bytes_of(attrs: Attributes, name: str) -> np.ndarray:
    return np.frombuffer(b64decode(attrs[name] or ""), dtype=np.uint8)


@pytest.fixture
def small() -> Routing:
    return small_routing()


@pytest.fixture(scope="module")
def story() -> Routing:
    return pocket().route('A dog\n\tran & <script>alert("1")</script> 🐶 مرحبا')


def test_tokens_have_the_colour_of_their_first_expert_and_the_rest_in_numbers(story: Routing) -> None:
    page = Page(view(story, "en"))
    tokens = page.of_class("tok")
    assert [int(attrs["data-i"] or "") for attrs, _ in tokens] == list(range(len(story)))
    assert [int(attrs["data-e"] or "") for attrs, _ in tokens] == story.experts[:, 0, 0].tolist()
    assert [int(attrs["data-id"] or "") for attrs, _ in tokens] == story.ids.tolist()
    assert "".join(text for _, text in tokens) == "".join(story.pieces)
    ((root, _),) = page.of_class("octuor-routing")
    assert np.array_equal(bytes_of(root, "data-routes"), story.experts.ravel())
    assert abs(bytes_of(root, "data-weights") - 100 * story.weights.ravel()).max() <= 0.5
    assert (root["data-layers"], root["data-chosen"], root["data-experts"]) == ("6", "2", "8")


def test_probability_and_alternatives_stand_with_each_token_but_the_first(story: Routing) -> None:
    tokens = [attrs for attrs, _ in Page(view(story, "en")).of_class("tok")]
    assert "data-p" not in tokens[0]
    for n, attrs in enumerate(tokens[1:], 1):
        assert float(attrs["data-p"] or "") == pytest.approx(np.exp(story.logprobs[n]), abs=1e-4)
        rows = json.loads(attrs["data-alternatives"] or "")
        assert [share for _, share, _ in rows[:5]] == pytest.approx(np.exp(story.alternatives.logprobs[n]), abs=1e-4)
        assert [row[0] for row in rows[:5]] == list(story.alternatives.pieces[n])
        assert sum(is_said for _, _, is_said in rows) == 1


def test_what_a_text_or_a_model_says_is_never_markup(story: Routing, small: Routing) -> None:
    wild = '"><img src=x onerror=alert(1)>'
    others = Alternatives(small.alternatives.ids, small.alternatives.logprobs, ((wild,),) * 3)
    for routing in (story, replace(small, pieces=("</div>", wild, "&lt;"), alternatives=others)):
        page = Page(view(routing, "en"))
        assert {tag for tag, _, _ in page.found}.isdisjoint({"img", "script", "style", "a"})
        assert not any(name.startswith("on") for _, attrs, _ in page.found for name in attrs)
        assert "".join(text for _, text in page.of_class("tok")) == "".join(routing.pieces)


def test_signs_that_act_are_shown_and_take_no_effect() -> None:
    assert piece_html("a\u202eb") == 'a<i class="ctl" data-u="U+202E"></i>b'
    assert piece_html("\x00\x1b\u2066") == "".join(
        f'<i class="ctl" data-u="U+{n}"></i>' for n in ("0000", "001B", "2066")
    )
    assert piece_html("x\n") == 'x<i class="nl">&#10;</i>'
    assert piece_html(" \t<") == " &#9;&lt;"


def test_a_token_without_text_is_seen(small: Routing) -> None:
    tokens = Page(view(small, "en")).of_class("tok")
    assert ["none" in (attrs["class"] or "") for attrs, _ in tokens] == [True, False, False]


def test_a_token_that_was_not_likely_is_told_after_the_likely_ones(small: Routing) -> None:
    rows = json.loads(Page(view(small, "en")).of_class("tok")[1][0]["data-alternatives"] or "")
    assert rows == [["</s>", round(np.exp(-0.25), 4), False], ["<b>é", round(np.exp(-0.5), 4), True]]


def test_the_heat_map_counts_every_choice(story: Routing) -> None:
    cells = Page(heat_map(story, "en")).with_attribute("data-tell")
    load, first = story.load(), story.load(first_only=True)
    assert len(cells) == load.size
    for place, attrs in enumerate(cells):
        expert, layer = divmod(place, story.n_layers)
        count, total = int(load[layer, expert]), 2 * len(story)
        assert attrs["data-tell"] == (
            f"Layer {layer}, expert {expert}: {say_percent(count / total)} of the work, {count} of {total}; "
            f"first choice of {say_percent(first[layer, expert] / len(story))}"
        )
        assert ("more" in (attrs["class"] or "")) == (count / total > 1 / 8)
    assert "12.5\u202f%" in heat_map(story, "en")


def test_repetition_stands_beside_what_chance_gives(story: Routing) -> None:
    markup = repetition_chart(story, "en")
    bars = Page(markup).with_attribute("data-tell")
    for layer, (one, two) in enumerate(zip(story.repetition(), story.repetition(2), strict=True)):
        assert bars[layer]["data-tell"] == (
            f"Layer {layer}: same first choice {say_percent(one)} (chance 12.5\u202f%); "
            f"first or second choice in common {say_percent(two)} (chance 46.4\u202f%)"
        )
    assert len(Page(markup).of_class("one")) == story.n_layers + 1  # bars, and the legend


def test_models_that_choose_one_expert_have_one_bar(small: Routing) -> None:
    single = replace(small, experts=small.experts[:, :, :1].copy(), weights=np.ones((3, 2, 1), np.float32))
    page = Page(view(single, "en"))
    assert page.of_class("one")
    assert not page.of_class("two")


def test_one_token_has_no_repetition() -> None:
    routing = pocket().route([1])
    assert "same first choice – (chance" in repetition_chart(routing, "en")
    assert len(Page(view(routing, "en")).of_class("tok")) == 1


def test_the_last_tokens_are_shown_and_all_of_them_counted(story: Routing) -> None:
    markup = view(story, "en", most=4)
    page = Page(markup)
    assert [text for _, text in page.of_class("tok")] == list(story.pieces[-4:])
    assert [attrs["data-i"] for attrs, _ in page.of_class("tok")] == ["0", "1", "2", "3"]
    [(root, _)] = page.of_class("octuor-routing")
    assert np.array_equal(bytes_of(root, "data-routes"), story.experts[-4:].ravel())
    assert f"The last 4 of {len(story)} tokens are shown." in markup
    assert heat_map(story, "en") in markup


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_view_is_one_line_in_every_language(story: Routing, language: Language) -> None:
    """Markdown would take a line's beginning and a blank line for its own."""
    markup = view(story, language)
    assert markup.splitlines() == [markup]
    assert "\t" not in markup
    assert f'lang="{language}"' in markup
    [(root, _)] = Page(markup).of_class("octuor-routing")
    words = json.loads(root["data-words"] or "")
    assert words["decimal"] == ("." if language == "en" else ",")
    assert "{share}" in words["probability"]


def test_parts_can_be_found(story: Routing) -> None:
    found = {attrs["id"] for attrs in Page(view(story, "en")).with_attribute("id")}
    assert found == {f"observatory-{part}" for part in ("layer", "text", "heat", "repetition")}
