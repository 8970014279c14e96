"""Archives: the members of genuine ones, and what is wrong with others."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from octuor.checkpoint import zip_index
from octuor.checkpoint.zip_index import read_zip_index
from octuor.errors import CheckpointError

MEMBERS = {"x/data.pkl": b"a pickle", "x/data/0": bytes(range(256)), "x/empty": b""}


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in MEMBERS.items():
            file.writestr(name, data)
    return path.read_bytes()


def members(data: bytes) -> dict[str, bytes]:
    found = read_zip_index(np.frombuffer(data, np.uint8), Path("x.pt"))
    return {name: data[member.begin : member.end] for name, member in found.items()}


def replaced(data: bytes, at: int, layout: str, value: int) -> bytes:
    """The bytes with another number at a place, counted from the end where negative."""
    out = bytearray(data)
    struct.pack_into(layout, out, at % len(data), value)
    return bytes(out)


def test_members_are_found(archive: bytes) -> None:
    assert members(archive) == MEMBERS


def test_zip64_and_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 4)  # everything is large
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in MEMBERS.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
        file.comment = b"PK, said the archive"
    assert members(path.read_bytes()) == MEMBERS


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x/data.pkl", bytes(100_000))
    with pytest.raises(CheckpointError, match=r"found x/data.pkl compressed"):
        members(path.read_bytes())


def directory_at(archive: bytes) -> int:
    return archive.index(b"PK\x01\x02")


def test_encrypted_members_are_refused(archive: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"found x/data.pkl encrypted"):
        members(replaced(archive, directory_at(archive) + 8, "<H", 1))


def test_members_must_not_overlap(archive: bytes) -> None:
    """The second entry of the directory points to the first member: the trick of zip bombs without nesting."""
    second = archive.index(b"PK\x01\x02", directory_at(archive) + 1)
    with pytest.raises(CheckpointError, match=r"overlap|another header"):
        members(replaced(archive, second + 42, "<I", 0))
    longer = replaced(replaced(archive, directory_at(archive) + 24, "<I", 300), directory_at(archive) + 20, "<I", 300)
    with pytest.raises(CheckpointError, match=r"overlap|beyond"):
        members(longer)


def test_one_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x/data.pkl", b"two")
    with pytest.raises(CheckpointError, match=r"two members called x/data.pkl"):
        members(path.read_bytes())


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [(-12, "<H", 60_000), (-10, "<I", 0xFFFFFF), (-6, "<I", 0xFFFFFFFF), (-2, "<H", 9), (-18, "<H", 1)],
)
def test_end_records_that_do_not_fit(archive: bytes, at: int, layout: str, value: int) -> None:
    with pytest.raises(CheckpointError, match="download it again"):
        members(replaced(archive, at, layout, value))


def test_every_shorter_file_is_refused(archive: bytes) -> None:
    for length in range(len(archive)):
        with pytest.raises(CheckpointError):
            members(archive[:length])


def test_members_are_counted_before_they_are_read(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_index, "MAX_MEMBERS", 2)
    with pytest.raises(CheckpointError, match="for 3 members"):
        members(archive)
