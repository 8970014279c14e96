"""Where the members of a zip archive lie in a mapped file: stored ones only, none on top of another.

Own code beside zipfile, for a member is wanted as a place in a mapping, and because every length and offset of a file
that anyone may have made is checked before it is used. PyTorch's files are such archives, each tensor a member.

    local header, name, extra, data     a member, again and again
    central directory                   a header for each, with sizes and the place of its local header
    end records                         where the directory is; a zip64 pair for files over 4 GiB

Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3.7 to 4.3.16
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.errors import CheckpointError

MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 200_000
_END, _END64, _LOCATOR64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _ENTRY_BYTES, _LOCAL_BYTES = 22, 56, 20, 46, 30
_MAX_COMMENT = 0xFFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_IN_ZIP64 = 0xFFFFFFFF

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Member:
    """A member's data is bytes begin to end of the file."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class _Entry:
    """What the central directory says of a member; header is the place of its local header."""

    name: str
    header: int
    n_bytes: int


def read_zip_index(data: Bytes, path: Path) -> dict[str, Member]:
    """The members of an archive by name; reads its directory and no member.

    Raises CheckpointError if the archive is damaged, if a member is compressed or encrypted, if two have one name, or
    if they overlap.
    """
    at, n_bytes, count = _directory(data, path)
    if count > MAX_MEMBERS or count * _ENTRY_BYTES > n_bytes:
        raise _damaged(path, f"a directory of {n_bytes} bytes for {count} members")
    directory = data[at : at + n_bytes].tobytes()
    entries, place = [], 0
    for _ in range(count):
        entry, place = _entry(directory, place, path)
        entries.append(entry)
    members: dict[str, Member] = {}
    free = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        if entry.header < free:
            raise _damaged(path, f"{entry.name} to overlap what is before it")
        begin = _data_begin(data, entry, at, path)
        free = begin + entry.n_bytes
        if free > at:
            raise _damaged(path, f"{entry.name} to end at byte {free}, beyond the members' {at}")
        if entry.name in members:
            raise _damaged(path, f"two members called {entry.name}")
        members[entry.name] = Member(entry.name, begin, free)
    return members


def _directory(data: Bytes, path: Path) -> tuple[int, int, int]:
    """Begin and bytes of the central directory, and the members in it."""
    tail = data[max(data.size - _END_BYTES - _MAX_COMMENT, 0) :].tobytes()
    found = tail.rfind(_END)
    if found < 0 or len(tail) - found < _END_BYTES:
        raise CheckpointError(f"{path}: expected a zip archive's end record, found none; download it again")
    end = data.size - len(tail) + found
    disk, directory_disk, here, count, n_bytes, at, comment = struct.unpack_from("<4H2IH", tail, found + 4)
    if end + _END_BYTES + comment != data.size or disk != directory_disk or here != count:
        raise _damaged(path, "an end record that does not fit the file")
    locator = end - _LOCATOR_BYTES
    if locator >= _END64_BYTES and data[locator : locator + 4].tobytes() == _LOCATOR64:
        _, end, _ = struct.unpack_from("<IQI", data[locator:].data, 4)
        if end > locator - _END64_BYTES or data[end : end + 4].tobytes() != _END64:
            raise _damaged(path, "no zip64 end record where it should be")
        here, count, n_bytes, at = struct.unpack_from("<4Q", data[end:].data, 24)
    if here != count or at + n_bytes != end:
        raise _damaged(path, f"a directory at bytes {at} to {at + n_bytes}, with its end record at {end}")
    return at, n_bytes, count


def _entry(directory: bytes, at: int, path: Path) -> tuple[_Entry, int]:
    """The entry at a place of the directory, and the place of the next one."""
    if len(directory) - at < _ENTRY_BYTES or directory[at : at + 4] != _ENTRY:
        raise _damaged(path, "a directory that ends early")
    flags, method, packed, n_bytes, name_length, extra_length, comment_length, header = struct.unpack_from(
        "<8x2H8x2I3H8xI", directory, at
    )
    begin = at + _ENTRY_BYTES
    extra = begin + name_length
    end = extra + extra_length + comment_length
    if end > len(directory):
        raise _damaged(path, "a directory that ends early")
    try:
        name = directory[begin:extra].decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, "a member's name that is not UTF-8") from error
    if _IN_ZIP64 in (n_bytes, packed, header):
        wide = _zip64_values(directory[extra : extra + extra_length])
        try:
            n_bytes, packed, header = (next(wide) if v == _IN_ZIP64 else v for v in (n_bytes, packed, header))
        except (StopIteration, RuntimeError) as error:  # a generator turns the first into the second
            raise _damaged(path, f"no zip64 sizes for {name}") from error
    if method != 0 or packed != n_bytes:
        raise CheckpointError(
            f"{path}: expected stored members as torch.save writes them, found {name} compressed; save it again"
        )
    if flags & _ENCRYPTED:
        raise CheckpointError(f"{path}: expected plain members, found {name} encrypted; save it again")
    return _Entry(name, header, n_bytes), end


def _zip64_values(extra: bytes) -> Iterator[int]:
    """The 64-bit values of an entry's zip64 field, in their order; none where there is no such field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            return iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
        at += 4 + length
    return iter(())


def _data_begin(data: Bytes, entry: _Entry, stop: int, path: Path) -> int:
    """Where a member's data begins, which its local header alone says."""
    if entry.header + _LOCAL_BYTES > stop:
        raise _damaged(path, f"{entry.name} at byte {entry.header}, beyond the members' {stop}")
    local = data[entry.header : entry.header + _LOCAL_BYTES].tobytes()
    name_length, extra_length = struct.unpack_from("<2H", local, 26)
    name = entry.header + _LOCAL_BYTES
    if local[:4] != MAGIC or data[name : name + name_length].tobytes() != entry.name.encode():
        raise _damaged(path, f"another header than {entry.name}'s at byte {entry.header}")
    return name + name_length + extra_length


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(f"{path}: expected a sound zip archive, found {found}; download it again")
