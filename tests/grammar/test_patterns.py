"""Expressions mean the same before and after."""

import pytest

from octuor.errors import GrammarError
from octuor.grammar.patterns import to_rust


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^[a-z]+$", "^[a-z]+$"),
        ("[[]", r"[\[]"),
        ("[^[a]", r"[^\[a]"),
        ("[]a]", "[]a]"),
        ("[^]a]b[", r"[^]a]b["),
        (r"[\]]]", r"[\]]]"),
        ("[a&&b~~c]&&~~", r"[a\&\&b\~\~c]&&~~"),
        (r"\<\>\[[<>]", r"<>\[[<>]"),
        (r"\\", r"\\"),
        ("{}a{2}{3,}{4,5}{a}", r"\{}a{2}{3,}{4,5}\{a}"),
        (r"\u{1F600}\p{L}\x{41}[{]\{", r"\u{1F600}\p{L}\x{41}[{]\{"),
        ("(é|日)", "(é|日)"),
        ("", ""),
    ],
)
def test_classes_and_escapes(pattern: str, expected: str) -> None:
    assert to_rust(pattern, "x") == expected


@pytest.mark.parametrize(("pattern", "message"), [("a\\", "x: .*backslash"), (3, "x: .*3"), (None, "x: .*null")])
def test_what_is_no_expression(pattern: object, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        to_rust(pattern, "x")
