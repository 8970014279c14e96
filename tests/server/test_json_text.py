"""JSON as it comes and goes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octuor.server.json_text import MAX_DEPTH, JsonError, dumps, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(VALUES)
def test_values_come_back(value: object) -> None:
    line = dumps(value)
    assert line.isascii()
    assert len(line.decode().splitlines()) == 1
    assert loads(line) == value


def test_line_separators_and_lone_surrogates_are_escaped() -> None:
    assert dumps("a\u2028b\u2029c\x85d\ud800") == rb'"a\u2028b\u2029c\u0085d\ud800"'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a', "found a mistake at character 1"),
        (b"", "found a mistake at character 0"),
        (b"\xff", "expected UTF-8, found the byte 0xff at 0"),
        (b"[NaN]", "found NaN"),
        (b"[-Infinity]", "found -Infinity"),
        (b"[1e999]", "found 1e999"),
        (b"1" * 5000, "thousands of digits"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "inside each other"),
        (b'{"a":' * (MAX_DEPTH + 2) + b"1" + b"}" * (MAX_DEPTH + 2), "inside each other"),
        (b"[" * 100_000, "inside each other"),
        (b"[" * 1_000_000, "at most 500,000 lists and objects"),
        (b"[" + b"1," * 2_000_001 + b"1]", "and 2,000,000 items"),
    ],
)
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(JsonError, match=says):
        loads(data)


def test_what_is_not() -> None:
    assert loads(b'\xef\xbb\xbf{"a":1}') == {"a": 1}  # a byte order mark, as Windows writes it
    wide: list[object] = [[] for _ in range(1000)]
    assert loads(json.dumps(wide).encode()) == wide
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert loads(deep)[0]
