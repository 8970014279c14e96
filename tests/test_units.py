"""Amounts of memory, read and written."""

import pytest

from octuor.errors import RequestError
from octuor.units import count, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("16GiB", 16 << 30),
        ("12.5GB", 12_500_000_000),
        ("800 MiB", 800 << 20),
        (" 2g ", 2 << 30),
        ("1.5T", 3 << 39),
        ("4096", 4096),
        ("10kB", 10_000),
        (".5k", 512),
    ],
)
def test_amounts(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "1e9", "16 apples", "1.2.3GB", "inf"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected an amount such as 16GiB"):
        parse_bytes(text)


def test_writing() -> None:
    assert [format_bytes(n) for n in (999, 3072, 27_540_000, 46_700_000_000, 2e12)] == [
        "999 bytes",
        "3.07 kB",
        "27.54 MB",
        "46.70 GB",
        "2.00 TB",
    ]
    assert [count(n) for n in (9, 3330, 36_450_000, 46_700_000_000)] == [
        "9",
        "3.33 thousand",
        "36.45 million",
        "46.70 billion",
    ]
