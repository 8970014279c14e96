"""HTML in a message is text; code, formulas and links stay what they are."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octuor.ui.markdown import JOINER, as_written, without_html


@pytest.mark.parametrize(
    "text",
    [
        "a <div> b",
        "</script>",
        "<!-- a comment",
        "<?php",
        '<img src=x onerror="alert(1)">',
        "a\n\n    <svg onload=alert(1)>",
        "one ` tick <b>",
        "a `tick\n\nover a paragraph` <b>",
    ],
)
def test_what_looks_like_html_is_text(text: str) -> None:
    shown = without_html(text)
    assert shown.count(f"<{JOINER}") == text.count("<") == 1
    assert as_written(shown) == text


@pytest.mark.parametrize(
    "text",
    [
        "1 < 2 and 3 <4 and <= <",
        "`<div>` and ``<a ` b>``",
        "```html\n<div>\n```",
        "~~~\n<div>\n~~~~\n",
        "text\n   ```\n<div> in an answer that goes on",
        "```",
        "$a<b$ and $$a\n<b$$ and \\(a<b\\) and \\[a<b\\]",
        "<https://example.org/a?b=c> <mailto:a@example.org>",
    ],
)
def test_code_formulas_and_links_stay(text: str) -> None:
    assert without_html(text) == text


def test_code_ends_where_it_ends() -> None:
    text = "```\n<a>\n```\n<b> `<c>` <d> $<e$ <f>"
    assert without_html(text) == text.replace("<b", f"<{JOINER}b").replace("<d", f"<{JOINER}d").replace(
        "<f", f"<{JOINER}f"
    )


@given(st.text("<>ab/!`~$\\()[] \n", max_size=60))
def test_nothing_else_is_changed(text: str) -> None:
    assert as_written(without_html(text)) == text


@pytest.mark.parametrize("piece", ["`a``b ", "$ ", "$$", "\\(", "```\n", "<a", "<https://", "\n~~~a"])
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    began = time.process_time()
    without_html(piece * (20_000 // len(piece)) + "<b>")
    assert time.process_time() - began < 1.0  # a tenth of that; with the square of the length it would be more
