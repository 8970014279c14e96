"""Texts that users name."""

from __future__ import annotations

from pathlib import Path

from octuor.errors import RequestError


def read_start(path: Path, max_characters: int, encoding: str = "utf-8") -> str:
    """The first max_characters of a file in that encoding, a kind of UTF-8. Raises RequestError."""
    try:
        with path.open(encoding=encoding) as file:
            return file.read(max_characters)
    except OSError as error:
        raise RequestError(f"{path}: expected a text file, it cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: expected text in UTF-8, found other bytes at {error.start}") from error
