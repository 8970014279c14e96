"""Stop strings: found wherever the text is cut, and never shown in part."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octuor.errors import RequestError
from octuor.stopping import StopMatcher

few_letters = st.text("ab\n", max_size=30)  # an alphabet small enough for stops to overlap
stops_lists = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def shown_by_definition(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What is shown, and which stop ends it: the first to be completed, and of those the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(text=few_letters, stops=stops_lists, places=st.lists(st.integers(0, 30), max_size=8))
def test_the_result_is_the_definitions_wherever_the_text_is_cut(text: str, stops: list[str], places: list[int]) -> None:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.feed(delta) for delta in cut(text, places)) + matcher.flush()
    assert (shown, matcher.match) == shown_by_definition(text, stops)


@given(text=few_letters, stops=stops_lists.filter(bool))
def test_only_what_may_become_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for end, char in enumerate(text, start=1):
        shown += matcher.feed(char)
        if matcher.match is not None:
            break
        held = text[len(shown) : end]
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))}
        longest = next(text[start:end] for start in range(end + 1) if text[start:end] in beginnings)
        assert held == longest


@pytest.mark.parametrize(
    ("stops", "deltas", "shown", "match"),
    [
        (["END"], ["a E", "N", "D b"], ["a ", "", ""], "END"),
        (["END"], ["a E", "N", "F b"], ["a ", "", "ENF b"], None),
        (["aab"], ["aa", "a", "b"], ["", "a", ""], "aab"),
        (["abcd", "bc"], ["xabc", "d"], ["xa", ""], "bc"),  # completed before the longer one
        (["bc", "abc"], ["xabc"], ["x"], "abc"),  # completed together
        (["."], ["one. two.", "three"], ["one", ""], "."),
        ([], ["any", "thing"], ["any", "thing"], None),
        (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", ""], "\n\n"),
    ],
)
def test_parts_by_hand(stops: list[str], deltas: list[str], shown: list[str], match: str | None) -> None:
    matcher = StopMatcher(stops)
    assert [matcher.feed(delta) for delta in deltas] == shown
    assert matcher.match == match


def test_what_was_held_back_comes_at_the_end() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the EN") == "the "
    assert matcher.flush() == "EN"
    assert matcher.flush() == ""


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the END of it") == "the "
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(RequestError, match="at least one character"):
        StopMatcher(["a", ""])
