"""Every shape of row, and what is said of what is none."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from octuor.errors import CheckpointError
from octuor.tokenizer import Message
from octuor.tune.rows import Pair, Problem, Row, Talk, Text, read_file

HELLO = {"role": "user", "content": "Hello"}
DAY = {"role": "assistant", "content": "Good day."}
TALK = (Message("user", "Hello"), Message("assistant", "Good day."))
SYSTEM = Message("system", "Be kind.")


def read(tmp_path: Path, *rows: Any) -> tuple[list[Row], list[Problem]]:
    path = tmp_path / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_file(path)


SHAPES: dict[str, tuple[dict[str, Any], Row]] = {
    "messages": ({"messages": [HELLO, DAY], "lang": "en"}, Talk("rows.jsonl:1", TALK)),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day."}]},
        Talk("rows.jsonl:1", TALK),
    ),
    "ShareGPT with a system field": (
        {
            "system": "Be kind.",
            "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day."}],
        },
        Talk("rows.jsonl:1", (SYSTEM, *TALK)),
    ),
    "Alpaca": ({"instruction": "Hello", "input": "", "output": "Good day."}, Talk("rows.jsonl:1", TALK)),
    "Alpaca with an input": (
        {"instruction": "Add", "input": "1 and 2", "output": "3", "system": "Be kind."},
        Talk("rows.jsonl:1", (SYSTEM, Message("user", "Add\n\n1 and 2"), Message("assistant", "3"))),
    ),
    "prompt and completion": ({"prompt": "Hello", "completion": "Good day."}, Talk("rows.jsonl:1", TALK)),
    "preference of texts": (
        {"prompt": "Hello", "chosen": "Good day.", "rejected": "What?"},
        Pair("rows.jsonl:1", TALK[:1], "Good day.", "What?"),
    ),
    "preference of messages": (
        {"prompt": [HELLO], "chosen": [DAY], "rejected": [{"role": "assistant", "content": "What?"}]},
        Pair("rows.jsonl:1", TALK[:1], "Good day.", "What?"),
    ),
    "preference without a prompt": (
        {"chosen": [HELLO, DAY], "rejected": [HELLO, {"role": "assistant", "content": "What?"}]},
        Pair("rows.jsonl:1", TALK[:1], "Good day.", "What?"),
    ),
    "text": ({"text": "Once upon a time"}, Text("rows.jsonl:1", "Once upon a time")),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape(shape: str, tmp_path: Path) -> None:
    row, expected = SHAPES[shape]
    assert read(tmp_path, row) == ([expected], [])


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("{", "expected one JSON object a line"),
        ("[1]", r"expected a JSON object, found \[1\]"),
        ({"question": "?"}, "expected messages, .* or text; found question"),
        ({"messages": "Hello"}, "expected messages as a list of messages, found str"),
        ({"messages": [{"content": "Hello"}]}, "message role: expected one of"),
        ({"conversations": [{"from": "crowd", "value": "x"}]}, "found 'crowd'"),
        ({"instruction": "a", "output": None}, "expected output as text, found NoneType"),
        ({"prompt": "a", "chosen": [HELLO], "rejected": "b"}, "chosen as text or one message of the assistant's"),
        ({"chosen": [HELLO, DAY], "rejected": [DAY, HELLO]}, "differ in their last message alone"),
        ({"chosen": [HELLO, DAY], "rejected": [HELLO, DAY]}, "differ in their last message alone"),
        ({"text": 3}, "expected text as text, found int"),
    ],
)
def test_what_is_no_row_is_named(row: Any, line: str, tmp_path: Path) -> None:
    rows, problems = read(tmp_path, {"text": "fine"}, row, "", {"text": "fine"})
    assert [found.where for found in rows] == ["rows.jsonl:1", "rows.jsonl:4"]
    (problem,) = problems
    assert problem.where == "rows.jsonl:2"
    with pytest.raises(AssertionError, match=line):
        raise AssertionError(problem.what)


def test_packed_files_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"text": "fine"}\n'))
    assert read_file(path)[0] == [Text("rows.jsonl.xz:1", "fine")]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="fetch the file again"):
        read_file(path)
    with pytest.raises(CheckpointError, match=r"none.jsonl: expected JSON Lines, cannot be read"):
        read_file(tmp_path / "none.jsonl")
