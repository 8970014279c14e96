"""Which texts are routed: a text, a file, or a folder with a file or a folder of files for each domain."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from octuor.errors import RequestError
from octuor.tokenizer import Tokenizer
from octuor.tools.text_file import read_start

MAX_CHARACTERS = 16 << 20  # of a file that are read
MAX_PIECE = 64  # characters of a token, and more than any has
WINDOW = 2048  # tokens that run as one text, BOS included, where the model's context is not shorter


@dataclass(frozen=True)
class Domain:
    """One kind of text. documents: each begins anew, after BOS."""

    name: str
    documents: tuple[str, ...]


def read_domains(folder: Path) -> tuple[Domain, ...]:
    """Every file of a folder, and every folder in it, as a domain, in the order of names; hidden ones left out.

    A domain's name is its file's without the ending. Raises RequestError where there is none, one is empty, two have
    the same name, or a file is no UTF-8 text.
    """
    if not folder.is_dir():
        raise RequestError(
            f"{folder}: expected a folder with a text, or a folder of texts, for each domain; found none"
        )
    found: dict[str, Domain] = {}
    for path in _visible(folder):
        files = [file for file in _visible(path, deep=True) if file.is_file()] if path.is_dir() else [path]
        documents = tuple(text for text in map(_read, files) if text.strip())
        name = path.name if path.is_dir() else path.stem
        if not documents:
            raise RequestError(f"{path}: expected text for the domain {name}, found none")
        if name in found:
            raise RequestError(f"{path}: expected one file or folder for the domain {name}, found two; rename one")
        found[name] = Domain(name, documents)
    if not found:
        raise RequestError(f"{folder}: expected a text, or a folder of texts, for each domain, found an empty folder")
    return tuple(found.values())


def read_text(given: str) -> Domain:
    """A file's text where there is one of that name, standard input's for "-", else the text itself."""
    if given == "-":
        text, name = sys.stdin.read(MAX_CHARACTERS), "text"
    elif _is_file(given):
        path = Path(given)
        text, name = _read(path), path.stem
    else:
        text, name = given, "text"
    if not text.strip():
        raise RequestError(f"{name}: expected some text, found none")
    return Domain(name, (text,))


def windows(tokenizer: Tokenizer, domain: Domain, context: int, max_tokens: int) -> list[list[int]]:
    """A domain's texts as ids, each after BOS, cut where they are longer than a window: max_tokens without BOS.

    All documents' first windows come before all second ones; documents beyond max_tokens are not even encoded.
    """
    size = min(context, WINDOW) - 1
    found: list[list[int]] = []
    left = max_tokens
    for part in _in_turn([_parts(tokenizer, text, size, max_tokens) for text in domain.documents]):
        found.append([tokenizer.bos_id, *part[:left]])
        left -= len(part)
        if left <= 0:
            break
    return found


def _parts(tokenizer: Tokenizer, text: str, size: int, max_tokens: int) -> Iterator[list[int]]:
    ids = tokenizer.encode(text[: MAX_PIECE * max_tokens])
    for at in range(0, len(ids), size):
        yield ids[at : at + size]


def _in_turn(columns: Sequence[Iterator[list[int]]]) -> Iterator[list[int]]:
    waiting = deque(columns)
    while waiting:
        column = waiting.popleft()
        part = next(column, None)
        if part is not None:
            yield part
            waiting.append(column)


def _visible(folder: Path, *, deep: bool = False) -> list[Path]:
    paths = folder.rglob("*") if deep else folder.iterdir()
    seen = (path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(seen, key=lambda path: (str(path).casefold(), path))


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL: a text
        return False


def _read(path: Path) -> str:
    return read_start(path, MAX_CHARACTERS, "utf-8-sig")  # with or without a mark at its beginning
