"""Calls out of an answer's text are the same however it comes."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octuor.errors import GrammarError
from octuor.grammar import NO_TOOLS, ToolCall, ToolParser, read_answer, read_tools

USE = read_tools([{"name": "f"}, {"name": "g"}])
CALLS = '[TOOL_CALLS] [{"name": "f", "arguments": {"x": "}\\"]"}}, {"name": "g", "arguments": {}}]'


def read_in_parts(parts: list[str], seed: int | None = 1) -> tuple[str, tuple[ToolCall, ...]]:
    parser = ToolParser(USE, seed=seed)
    deltas = [*(parser.push(part) for part in parts), parser.finish()]
    return "".join(delta.content for delta in deltas), tuple(call for delta in deltas for call in delta.calls)


def short(found: tuple[str, tuple[ToolCall, ...]]) -> tuple[str, list[tuple[str, str]]]:
    return found[0], [(call.name, call.arguments) for call in found[1]]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("Hello", "Hello", []),
        (" \n", " \n", []),
        ("[TOOL_CALL", "[TOOL_CALL", []),
        ("[TOOL_CALLS]", "", []),
        (CALLS, "", [("f", '{"x": "}\\"]"}'), ("g", "{}")]),
        (f" \n{CALLS}", "", [("f", '{"x": "}\\"]"}'), ("g", "{}")]),
        (f"I look. {CALLS}", "I look. ", [("f", '{"x": "}\\"]"}'), ("g", "{}")]),
        (f"[TOOL_CALLS{CALLS}", "[TOOL_CALLS", [("f", '{"x": "}\\"]"}'), ("g", "{}")]),
        (CALLS[:-20], "", [("f", '{"x": "}\\"]"}')]),  # max_tokens cut the second one off
        (CALLS[:40], "", []),
    ],
)
def test_whole_answers(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert short(read_answer(text, USE, seed=1)) == (content, calls)


@pytest.mark.parametrize("text", ["Hello [you]", f" I look.\n{CALLS}", CALLS[:-30], "[TOOL_[TOOL_CALLS"])
def test_every_cut_gives_the_same(text: str) -> None:
    whole = read_answer(text, USE, seed=1)
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1, 5):
            assert read_in_parts([text[:first], text[first:second], text[second:]]) == whole


_TEXTS = st.text(st.sampled_from('[]TOL_CAS{}",:\\ né😀\n'), max_size=12)
_ARGUMENTS: st.SearchStrategy[dict[str, object]] = st.dictionaries(_TEXTS, _TEXTS | st.just([{}]), max_size=2)
_CALLS = st.lists(st.tuples(st.sampled_from(["f", "g"]), _ARGUMENTS))


@settings(deadline=None)
@given(
    content=_TEXTS.filter(lambda text: "[TOOL_CALLS]" not in text),
    calls=_CALLS,
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_any_calls_in_any_parts(content: str, calls: list[tuple[str, dict[str, object]]], cuts: list[int]) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    listed = ", ".join(f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in written)
    text = f"{content}[TOOL_CALLS] [{listed}]" if calls else content
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = read_in_parts([text[a:b] for a, b in pairwise(bounds)])
    assert short(found)[1] == written
    assert found[0] == (content if content.strip() or not calls else "")


def test_content_comes_as_soon_as_it_is_certain() -> None:
    parser = ToolParser(USE)
    assert parser.push(" ").content == ""
    assert parser.push("Hel").content == " Hel"
    assert parser.push("lo [").content == "lo "
    assert parser.push("x").content == "[x"
    assert parser.push("[TOOL_CALLS").content == ""
    assert not parser.has_calls
    assert parser.push('] [{"name": "f", "arguments": {').calls == ()
    assert [call.arguments for call in parser.push("}}, ").calls] == ["{}"]
    assert parser.has_calls


def test_without_tools_all_is_content() -> None:
    assert read_answer(CALLS, NO_TOOLS) == (CALLS, ())
    assert ToolParser(NO_TOOLS).push("[TOOL").content == "[TOOL"


def test_ids_follow_from_the_seed() -> None:
    def ids(seed: int | None, choice: int = 0, turn: int = 0) -> list[str]:
        return [call.id for call in read_answer(CALLS, USE, seed=seed, choice=choice, turn=turn)[1]]

    assert ids(7) == ids(7)
    drawn = [ids(7), ids(8), ids(7, choice=1), ids(7, turn=2), ids(None), ids(None)]
    every = [call_id for pair in drawn for call_id in pair]
    assert len(set(every)) == len(every)
    assert all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in every)
    assert [call.index for call in read_answer(CALLS, USE)[1]] == [0, 1]


def test_text_that_no_grammar_allowed() -> None:
    with pytest.raises(GrammarError, match="expected a tool call"):
        read_answer('[TOOL_CALLS] [{"function": "f"}]', USE)


def test_long_arguments_are_read_once() -> None:
    """A quadratic reader would take minutes."""
    text = f'[TOOL_CALLS] [{{"name": "f", "arguments": {{"x": "{"y" * 300_000}"}}}}]'
    assert len(read_in_parts([text[at : at + 3] for at in range(0, len(text), 3)])[1]) == 1
