"""Domains and texts from files, folders and words, and how they are cut."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from octuor.api import load
from octuor.errors import RequestError
from octuor.tokenizer import Tokenizer
from octuor.tools.routing.texts import Domain, read_domains, read_text, windows


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load().tokenizer


def test_files_and_folders_are_domains(tmp_path: Path) -> None:
    (tmp_path / "Stories.txt").write_text("\ufeffOnce upon a time", encoding="utf-8")
    (tmp_path / "code" / "deep").mkdir(parents=True)
    (tmp_path / "code" / "b.py").write_text("b = 2")
    (tmp_path / "code" / "deep" / "a.py").write_text("a = 1")
    (tmp_path / "code" / "empty.py").write_text("\n")
    (tmp_path / "code" / ".git").write_text("no text of mine")
    (tmp_path / ".hidden").write_text("x")
    assert read_domains(tmp_path) == (Domain("code", ("b = 2", "a = 1")), Domain("Stories", ("Once upon a time",)))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "an empty folder"),
        ({"a.txt": " \n"}, "expected text for the domain a"),
        ({"a.txt": "x", "a.md": "y"}, "one file or folder for the domain a, found two"),
        ({"a.txt": b"\xff\xfe"}, "text in UTF-8, found other bytes at 0"),
    ],
)
def test_folders_that_are_no_domains(tmp_path: Path, files: dict[str, str | bytes], says: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(RequestError, match=says):
        read_domains(tmp_path)
    with pytest.raises(RequestError, match="expected a folder with a text"):
        read_domains(tmp_path / "nowhere")


def test_a_text_is_a_file_or_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fable.txt").write_text("The fox")
    assert read_text(str(tmp_path / "fable.txt")) == Domain("fable", ("The fox",))
    assert read_text("The hen " * 2000) == Domain("text", ("The hen " * 2000,))
    assert read_text("nul\0") == Domain("text", ("nul\0",))
    monkeypatch.setattr("sys.stdin", io.StringIO("piped"))
    assert read_text("-") == Domain("text", ("piped",))
    with pytest.raises(RequestError, match="expected some text"):
        read_text(" ")


def test_windows_take_something_of_every_document(tokenizer: Tokenizer) -> None:
    domain = Domain("x", ("one two three four five six seven eight", "uno due tre"))
    first, second = (tokenizer.encode(text) for text in domain.documents)
    assert windows(tokenizer, domain, 5, 1000) == [
        [1, *first[:4]],
        [1, *second[:4]],
        [1, *first[4:8]],
        *([[1, *second[4:]]] if second[4:] else []),
        *([[1, *first[8:]]] if first[8:] else []),
    ]


@pytest.mark.parametrize("limit", [1, 4, 6, 9])
def test_a_limit_counts_tokens_without_bos(tokenizer: Tokenizer, limit: int) -> None:
    domain = Domain("x", ("one two three four five six", "a b c d e f g"))
    found = windows(tokenizer, domain, 4, limit)
    assert sum(len(part) - 1 for part in found) == limit
    assert all(1 < len(part) <= 4 for part in found)
