"""The container against llama.cpp's own writer, and damaged files."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest

from checkpoint.gguf_files import Q, packed, write_file
from octuor.checkpoint import gguf_file
from octuor.checkpoint.gguf_file import GgufFile
from octuor.errors import CheckpointError

METADATA: dict[str, Any] = {
    "a.integer": 7, "a.number": 0.5, "a.flag": True, "a.text": "grüß", "some.strings": [b"one", b"", b"\xff"],
    "some.numbers": [1, -2, 3], "some.floats": [0.5, 2.0], "some.flags": [True, False], "alike": [4, 4],
}  # fmt: skip
TENSORS = {
    "vector": np.arange(5, dtype=np.float32),
    "matrix": np.linspace(-1, 1, 96, dtype=np.float32).reshape(3, 32),
    "cube": np.linspace(-2, 2, 384, dtype=np.float32).reshape(2, 3, 64),
}
ENTRY = packed([6], 8) + b"vector" + packed([1], 4) + packed([5], 8) + packed([0], 4) + packed([0], 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "x.gguf", METADATA, TENSORS, Q.Q8_0)


Open = Callable[[bytes], GgufFile]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Open:
    def write(data: bytes) -> GgufFile:
        (tmp_path / "changed.gguf").write_bytes(data)
        return GgufFile(tmp_path / "changed.gguf")

    return write


def header(n_tensors: int, n_entries: int, *rest: bytes, version: int = 3) -> bytes:
    """A file without data, its header put together by hand."""
    return b"GGUF" + packed([version], 4) + packed([n_tensors, n_entries], 8) + b"".join(rest)


def text(data: bytes) -> bytes:
    return packed([len(data)], 8) + data


def test_we_read_what_llama_cpp_writes(path: Path) -> None:
    file = GgufFile(path)
    assert file.integer("a.integer") == 7
    assert file.integer("alike") == 4
    assert file.number("a.number") == 0.5
    assert file.number("a.integer") == 7
    assert file.flag("a.flag") is True
    assert file.text("a.text") == "grüß"
    assert file.strings("some.strings") == [b"one", b"", b"\xff"]
    for key, expected in (("some.numbers", [1, -2, 3]), ("some.floats", [0.5, 2]), ("some.flags", [True, False])):
        found = file.numbers(key)
        assert found is not None
        assert found.tolist() == expected
    assert {name: (entry.blocks.name, entry.shape) for name, entry in file.tensors.items()} == {
        "vector": ("gguf-f32", (5,)),
        "matrix": ("gguf-q8_0", (3, 32)),
        "cube": ("gguf-q8_0", (2, 3, 64)),
    }
    for name, x in TENSORS.items():
        entry = file.tensors[name]
        found = entry.blocks.to_f32(file.get(name), {}, entry.shape)
        np.testing.assert_allclose(found, x, atol=0 if name == "vector" else 0.01)
        assert np.shares_memory(file.get(name), file.file.bytes)


def test_version_2_is_the_same(path: Path, open_bytes: Open) -> None:
    data = path.read_bytes()
    file = open_bytes(data[:4] + packed([2], 4) + data[8:])
    assert list(file.tensors) == list(TENSORS)


def test_keys_that_are_not_there(path: Path) -> None:
    file = GgufFile(path)
    for read in (file.integer, file.number, file.flag, file.text, file.strings, file.numbers):
        assert read("none") is None


@pytest.mark.parametrize(
    ("read", "key", "expected"),
    [
        ("integer", "a.flag", "one whole number"),
        ("integer", "a.number", "one whole number"),
        ("integer", "some.numbers", "one whole number"),
        ("number", "a.text", "a number"),
        ("flag", "a.integer", "true or false"),
        ("text", "a.integer", "a string"),
        ("strings", "a.text", "an array of strings"),
        ("numbers", "some.strings", "an array of numbers"),
    ],
)
def test_values_of_another_type_are_named(path: Path, read: str, key: str, expected: str) -> None:
    with pytest.raises(CheckpointError, match=rf"x.gguf: expected {expected} as {key}"):
        getattr(GgufFile(path), read)(key)


def test_big_endian_files_are_told_apart(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.gguf", METADATA, TENSORS, big_endian=True)
    with pytest.raises(CheckpointError, match="found a big-endian file"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"PK\x03\x04 something else altogether", "one that begins with b'PK"),
        (b"GG", "one that begins with b'GG'"),
        (b"GGUF\x03", "at least 4 bytes for its version"),
        (header(0, 0, version=1), "found version 1"),
        (header(0, 0, version=4), "found version 4"),
        (header(0, 0)[:-1], "at least 8 bytes for the number of metadata entries"),
        (header(2**63, 0, bytes(100)), "found 9223372036854775808 tensors"),
        (header(0, 9, bytes(100)), "0 tensors and 9 metadata entries"),
        (header(0, 1, packed([2**60], 8), bytes(100)), "at least 1152921504606846976 bytes for a metadata key"),
        (header(0, 1, text(b"\xff"), bytes(100)), r"printable characters, found b'\xff'"),
        (header(0, 1, text(b"a\nb"), bytes(100)), r"a metadata key of up to 256 printable characters, found b'a\nb'"),
        (header(1, 0, text(b"a" * 257), bytes(100)), "a tensor's name of up to 256 printable characters"),
        (header(0, 2, 2 * (text(b"k") + packed([0], 4) + b"\1"), bytes(9)), "expected one k in the metadata"),
        (header(0, 1, text(b"k"), packed([13], 4), bytes(9)), "as k, found type 13"),
        (header(0, 1, text(b"k"), packed([9, 9], 4), bytes(99)), "as k, found type 9"),
        (header(0, 1, text(b"k"), packed([9, 4], 4), packed([2**61], 8), bytes(99)), "bytes for k"),
        (header(0, 1, text(b"k"), packed([9, 8], 4), packed([2**61], 8), bytes(99)), "strings in the header"),
        (header(0, 1, text(b"k"), packed([9, 8], 4), packed([4], 8), text(b"s") * 3), "bytes for k"),
        (header(0, 1, text(b"k"), packed([9, 8], 4), packed([1], 8), packed([2**64 - 1], 8)), "bytes for k"),
        (header(0, 1, text(b"k"), packed([7], 4), b"\2"), "0 or 1 in k"),
        (header(1, 0, text(b"t"), packed([0], 4), bytes(99)), "1 to 4 dimensions for t, found 0"),
        (header(1, 0, text(b"t"), packed([5], 4), bytes(99)), "1 to 4 dimensions for t, found 5"),
        (header(1, 0, text(b"t"), packed([1], 4), packed([1], 8), packed([77], 4), bytes(9)), "found ggml type 77"),
        (header(1, 0, text(b"t"), packed([1], 4), packed([1], 8), packed([4], 4), bytes(9)), "found ggml type Q4_2"),
        (header(1, 0, text(b"t"), packed([1], 4), packed([31], 8), packed([2], 4), bytes(9)), "a multiple of 32"),
        (header(1, 0, text(b"t"), packed([2], 4), packed([2**40, 2**63], 8), bytes(12)), "of data for t"),
        (header(1, 0, ENTRY[:-8] + packed([2**63], 8)), "of data for vector"),
        (header(1, 0, ENTRY[:-8] + packed([8], 8), bytes(99)), "vector at a multiple of 32 bytes"),
        (header(2, 0, ENTRY, ENTRY, bytes(99)), "expected one tensor vector"),
        (header(2, 0, ENTRY, ENTRY.replace(b"vec", b"bec"), bytes(99)), "after the end of"),
        (header(1, 0, ENTRY, bytes(9)), "expected at least 84 bytes, found 71"),
        (header(1, 1, text(b"general.alignment"), packed([4, 3], 4), ENTRY, bytes(99)), "power of two"),
        (header(1, 1, text(b"general.alignment"), packed([4, 0], 4), ENTRY, bytes(99)), "power of two"),
        (header(1, 1, text(b"general.alignment"), packed([8], 4), text(b"32"), ENTRY, bytes(99)), "power of two"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_damage_is_named(open_bytes: Open, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        open_bytes(data)
    assert "changed.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_length_of_a_file_is_refused_or_whole(path: Path, open_bytes: Open) -> None:
    data = path.read_bytes()
    last = max(entry.end for entry in GgufFile(path).tensors.values())
    for n in range(1, last, 29):
        with pytest.raises(CheckpointError):
            open_bytes(data[:n])
    assert list(open_bytes(data[:last]).tensors) == list(TENSORS)


def test_other_alignments_are_kept(open_bytes: Open) -> None:
    entry = header(1, 1, text(b"general.alignment"), packed([4, 1], 4), ENTRY)
    file = open_bytes(entry + pack("<5f", *range(5)))
    row = file.tensors["vector"].blocks
    np.testing.assert_array_equal(row.to_f32(file.get("vector"), {}, (5,)), np.arange(5))


def test_a_large_vocabulary_opens_quickly(tmp_path: Path) -> None:
    tokens = [b"token %d" % i for i in range(32_000)]
    path = write_file(tmp_path / "x.gguf", {"tokens": tokens}, TENSORS)
    began = time.perf_counter()
    file = GgufFile(path)
    assert time.perf_counter() - began < 1.0
    assert file.strings("tokens") == tokens


def test_memory_follows_the_file_and_not_its_claims(open_bytes: Open) -> None:
    claims = header(0, 1, text(b"k"), packed([9, 8], 4), packed([gguf_file.MAX_STRINGS - 2], 8), bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            open_bytes(claims)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
