"""Amounts as people write them: of memory, 16GiB, 500 MB, 1.5G, where plain numbers are bytes; and large counts."""

from __future__ import annotations

import re

from octuor.errors import RequestError

UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    UNITS |= {f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power, _letter: 1024**_power}

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)")


def parse_bytes(text: str) -> int:
    """Bytes of an amount. GiB and a bare G count in 1024s, GB in 1000s, as the field does.

    Raises RequestError that says what an amount looks like.
    """
    match = _AMOUNT.fullmatch(text.strip().lower())
    if match is None or match[2] not in UNITS:
        raise RequestError(f"memory: expected an amount such as 16GiB, 12.5GB or 800MiB, found {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def format_bytes(n_bytes: float) -> str:
    """Bytes for people, in units of 1000: 46.70 GB, 27.54 MB, 3.07 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{int(n_bytes)} bytes"


def count(n: int) -> str:
    """A number of weights for people: 46.70 billion, 36.45 million, 3.33 thousand."""
    for word, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {word}"
    return str(n)
