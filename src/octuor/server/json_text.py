"""JSON as it comes and goes: what json.loads lets through and we do not, and text that no client cuts in two."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 100  # of lists and objects inside each other; schemas of people have ten
MAX_OBJECTS, MAX_ITEMS = 500_000, 2_000_000  # in all; more take seconds to read, during which nobody is answered

ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class JsonError(ValueError):
    """Text that is not the JSON we take; one line that says where and why."""


def dumps(value: object) -> bytes:
    """One line of ASCII: whatever is not becomes an escape, line separators and lone surrogates among them."""
    return ENCODER.encode(value).encode("ascii")


def loads(data: bytes) -> Any:
    """The value of a body: UTF-8, finite numbers, not nested beyond MAX_DEPTH.

    Raises JsonError.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"expected UTF-8, found the byte 0x{data[error.start]:02x} at {error.start}") from error
    n_objects = data.count(b"[") + data.count(b"{")  # those in text among them, of which no context holds as many
    if n_objects > MAX_OBJECTS or data.count(b",") > MAX_ITEMS:
        raise JsonError(f"expected at most {MAX_OBJECTS:,} lists and objects and {MAX_ITEMS:,} items, found more")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise JsonError(f"expected JSON, found a mistake at character {error.pos}: {error.msg}") from error
    except RecursionError as error:
        raise JsonError(f"expected at most {MAX_DEPTH} lists and objects inside each other, found more") from error
    except ValueError as error:
        if isinstance(error, JsonError):
            raise
        raise JsonError("expected numbers of ordinary size, found one of thousands of digits") from error
    if n_objects > MAX_DEPTH:
        _check_depth(value)
    return value


def _refuse(name: str) -> NoReturn:
    raise JsonError(f"expected finite numbers, found {name}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise JsonError(f"expected numbers that fit 64-bit floating point, found {text[:20]}")
    return value


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise JsonError(f"expected at most {MAX_DEPTH} lists and objects inside each other, found more")
