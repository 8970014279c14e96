"""Settings out of the panel and out of files."""

import math

import pytest

from octuor.ui.backend import ChatSettings, ModelCard
from octuor.ui.settings import UNKNOWN_CONTEXT, from_json, from_page, longest_answer, to_json, within


def test_empty_boxes_have_their_defaults() -> None:
    assert from_page({}) == ChatSettings()
    assert from_page(dict.fromkeys(to_json(ChatSettings()))) == ChatSettings()


def test_the_panel_gives_what_it_shows() -> None:
    values = {
        "system": "Be brief.",
        "temperature": 0,
        "max_new_tokens": 8.0,
        "top_p": 0.5,
        "top_k": 0,
        "repetition_penalty": 1,
        "seed": 3.0,
    }
    settings = from_page(values)
    assert settings == ChatSettings("Be brief.", 0.0, 8, 0.5, 0, 1.0, 3)
    assert isinstance(settings.max_new_tokens, int)
    assert isinstance(settings.seed, int)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", 1e9, 1.0),
        ("temperature", -1, 0.0),
        ("temperature", math.nan, 0.9),
        ("temperature", "hot", 0.9),
        ("temperature", True, 0.9),
        ("max_new_tokens", 0, 1),
        ("top_p", 0.0, 0.05),
        ("seed", -5, 0),
        ("seed", math.inf, None),
    ],
)
def test_what_is_outside_the_range_is_brought_to_its_end(name: str, value: object, expected: object) -> None:
    assert getattr(from_page({name: value}), name) == expected


def test_json_comes_back_as_it_was_and_may_know_more() -> None:
    settings = ChatSettings("Be brief.", 0.5, 100, 0.5, 0, 1.0, 3)
    assert from_json({**to_json(settings), "min_p": 0.1}, "here") == settings
    assert from_json({}, "here") == ChatSettings()


def test_answers_are_no_longer_than_the_context() -> None:
    model = ModelCard("pocket", 128, can_observe=True)
    assert longest_answer(model) == within(ChatSettings(), model).max_new_tokens == 128
    assert longest_answer(None) == longest_answer(ModelCard("far", None, can_observe=False)) == UNKNOWN_CONTEXT
    assert within(ChatSettings(), None) == ChatSettings()
