"""The GGUF container, versions 2 and 3: read through a mapping. Knows nothing of models.

    4 bytes   "GGUF"
    u32       version
    u64, u64  how many tensors, how many metadata entries
    entries   key, u32 type, value; a string is u64 length and bytes; an array is u32 type, u64 length and values
    tensors   name, u32 dimensions, u64 each (the innermost first), u32 ggml type, u64 offset in the data
    data      from the next multiple of general.alignment on; each tensor begins at a multiple of it

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; llama.cpp, ggml/src/gguf.cpp
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from octuor.checkpoint.files import MappedFile
from octuor.errors import CheckpointError
from octuor.quant.base import Array
from octuor.quant.gguf import TYPES, Blocks

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_STRINGS = 1 << 21  # in one file, names and keys too: a vocabulary and its merges are under a million
MAX_NAME_BYTES = 256  # errors show names; llama.cpp has up to 63 for tensors
ALIGNMENT = 32  # where the metadata names no other

_STRING, _ARRAY = 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"), 1: np.dtype("i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 7: np.dtype(np.bool_), 10: np.dtype("<u8"), 11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}  # fmt: skip
_GONE = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"}  # no program reads them any more
_LFS_POINTER = b"version https://git-lfs"
_U32, _U64 = Struct("<I"), Struct("<Q")

Value = bool | int | float | str | list[bytes] | Array


@dataclass(frozen=True)
class GgufTensor:
    """One entry of a file's index: shape with the outermost axis first, `begin` from the start of the file."""

    name: str
    blocks: Blocks
    shape: tuple[int, ...]
    begin: int

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) // self.blocks.weights * self.blocks.block_bytes

    @property
    def end(self) -> int:
        """Where its data ends in the file."""
        return self.begin + self.n_bytes


class GgufFile:
    """A file opened for reading: the header is read and checked whole, the data is mapped.

    metadata  by key; an array of strings is a list of their bytes, one of numbers a view of the file
    tensors   by name, in the file's order
    file      its bytes

    Raises CheckpointError if the file is not GGUF of these versions in little-endian order, is damaged, or is
    shorter than its header says. Opening takes time and memory by the header's size, never by what it claims.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        header = _Header(path, self.file.bytes)
        n_tensors, n_entries = header.start()
        self.metadata: dict[str, Value] = {}
        for _ in range(n_entries):
            key = header.name("a metadata key")
            if key in self.metadata:
                raise CheckpointError(f"{path}: expected one {key} in the metadata, found two; download it again")
            self.metadata[key] = header.value(key)
        entries = [header.tensor() for _ in range(n_tensors)]
        self.tensors = self._place(entries, header.at)

    def get(self, name: str) -> Array:
        """A tensor's bytes, uint8 [..., row bytes], as a read-only view of the mapped file, without reading it."""
        entry = self.tensors[name]
        data = self.file.bytes[entry.begin : entry.end]
        return data.reshape(*entry.shape[:-1], entry.blocks.row_bytes(entry.shape[-1]))

    def integer(self, key: str) -> int | None:
        """A whole number of the metadata; an array of one number again and again is that number. None: no such key."""
        value = self.metadata.get(key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self._wrong(key, "one whole number", value)

    def number(self, key: str) -> float | None:
        """A number of the metadata; None: no such key."""
        value = self.metadata.get(key)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        raise self._wrong(key, "a number", value)

    def text(self, key: str) -> str | None:
        """A string of the metadata; None: no such key."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "a string", value)

    def flag(self, key: str) -> bool | None:
        """A truth value of the metadata; None: no such key."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(key, "true or false", value)

    def strings(self, key: str) -> list[bytes] | None:
        """An array of strings of the metadata; None: no such key."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, list):
            return value
        raise self._wrong(key, "an array of strings", value)

    def numbers(self, key: str) -> Array | None:
        """An array of numbers of the metadata; None: no such key."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, np.ndarray):
            return value
        raise self._wrong(key, "an array of numbers", value)

    def _wrong(self, key: str, expected: str, value: Value) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: expected {expected} as {key}, found {_brief(value)}; convert the model again"
        )

    def _place(self, entries: Sequence[GgufTensor], header_end: int) -> dict[str, GgufTensor]:
        """The tensors at their places in the file, which hold them one beside the other and whole."""
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise CheckpointError(
                f"{self.path}: expected a power of two as general.alignment, found "
                f"{_brief(alignment)}; download it again"
            )
        data_start = -(-header_end // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for entry in entries:
            if entry.name in tensors:
                raise CheckpointError(f"{self.path}: expected one tensor {entry.name}, found two; download it again")
            if entry.begin % alignment:
                raise CheckpointError(
                    f"{self.path}: expected {entry.name} at a multiple of {alignment} bytes, header says "
                    f"{entry.begin}; download it again"
                )
            tensors[entry.name] = GgufTensor(entry.name, entry.blocks, entry.shape, data_start + entry.begin)
        last = None
        for entry in sorted(tensors.values(), key=lambda entry: (entry.begin, entry.end)):
            if last is not None and entry.begin < last.end:
                raise CheckpointError(
                    f"{self.path}: expected {entry.name} after the end of {last.name} at byte {last.end}, header says "
                    f"{entry.begin}; download it again"
                )
            last = entry
        if last is not None and last.end > self.file.bytes.size:
            raise CheckpointError(
                f"{self.path}: expected at least {last.end} bytes, found {self.file.bytes.size}; download it again"
            )
        return tensors


class _Header:
    """Reads a header from front to back; every length is checked against what is left of the file."""

    def __init__(self, path: Path, data: Array) -> None:
        self.path = path
        self.data = data
        self.view = data.data
        self.size = data.size
        self.at = 0
        self.n_strings = 0

    def start(self) -> tuple[int, int]:
        """How many tensors and metadata entries follow."""
        if bytes(self.view[: len(_LFS_POINTER)]) == _LFS_POINTER:
            raise CheckpointError(f"{self.path}: expected weights, found a Git LFS pointer; run `git lfs pull` there")
        if (found := bytes(self.view[:4])) != MAGIC:
            raise CheckpointError(
                f"{self.path}: expected a GGUF file, found one that begins with {found!r}; "
                "is it the model's own file, downloaded whole?"
            )
        self.at = 4
        version = self.u32("its version")
        if version not in VERSIONS:
            is_swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            found_kind = "a big-endian file" if is_swapped else f"version {version}"
            raise CheckpointError(
                f"{self.path}: expected GGUF version 2 or 3 in little-endian order, found {found_kind}; "
                "convert the model again with a current llama.cpp"
            )
        n_tensors, n_entries = self.u64("the number of tensors"), self.u64("the number of metadata entries")
        if n_tensors + n_entries > min((self.size - self.at) // 12, MAX_STRINGS):  # each has two lengths at least
            raise CheckpointError(
                f"{self.path}: expected a header that fits in {self.size} bytes, found {n_tensors} tensors and "
                f"{n_entries} metadata entries; download it again"
            )
        return n_tensors, n_entries

    def tensor(self) -> GgufTensor:
        """The next entry of the index; its `begin` is as it stands there, counted from the start of the data."""
        name = self.name("a tensor's name")
        n_dimensions = self.u32(name)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise CheckpointError(
                f"{self.path}: expected 1 to {MAX_DIMENSIONS} dimensions for {name}, found {n_dimensions}; "
                "download it again"
            )
        shape = tuple(self.u64(name) for _ in range(n_dimensions))[::-1]
        number = self.u32(name)
        if number not in TYPES:
            raise CheckpointError(
                f"{self.path}: expected {name} in a type of numbers that octuor reads, found ggml type "
                f"{_GONE.get(number, number)}; convert the model again with a current llama.cpp"
            )
        blocks = TYPES[number]
        if shape[-1] % blocks.weights:
            raise CheckpointError(
                f"{self.path}: expected rows of a multiple of {blocks.weights} weights for {name} ({blocks.name}), "
                f"found {list(shape)}; download it again"
            )
        entry = GgufTensor(name, blocks, shape, self.u64(name))
        if max(entry.begin, entry.n_bytes) > self.size:
            raise CheckpointError(
                f"{self.path}: expected at most its {self.size} bytes of data for {name}, header says {entry.n_bytes} "
                f"from byte {entry.begin} on; download it again"
            )
        return entry

    def value(self, key: str) -> Value:
        """A metadata entry's type and value."""
        kind = self.u32(key)
        if kind == _ARRAY:
            return self._array(key)
        if kind == _STRING:
            return self._string(key).decode(errors="replace")
        if kind not in _NUMBERS:
            raise self._bad_type(key, kind)
        item: Value = self._numbers(key, _NUMBERS[kind], 1)[0].item()
        return item

    def name(self, what: str) -> str:
        """A string that names something."""
        raw = self._string(what)
        name = raw.decode(errors="replace")
        if not name.isprintable() or name.encode() != raw or len(raw) > MAX_NAME_BYTES:
            raise CheckpointError(
                f"{self.path}: expected {what} of up to {MAX_NAME_BYTES} printable characters, found "
                f"{raw[:40]!r}; download it again"
            )
        return name

    def u32(self, what: str) -> int:
        """The next number of 4 bytes."""
        return self._u(what, _U32)

    def u64(self, what: str) -> int:
        """The next number of 8 bytes."""
        return self._u(what, _U64)

    def _u(self, what: str, kind: Struct) -> int:
        begin = self._take(what, kind.size)
        value: int = kind.unpack_from(self.view, begin)[0]
        return value

    def _string(self, what: str) -> bytes:
        self._count(what, 1)
        n = self.u64(what)
        begin = self._take(what, n)
        return bytes(self.view[begin : begin + n])

    def _array(self, key: str) -> Value:
        kind, n = self.u32(key), self.u64(key)
        if kind == _STRING:
            return self._strings(key, n)
        if kind not in _NUMBERS:
            raise self._bad_type(key, kind)
        return self._numbers(key, _NUMBERS[kind], n)

    def _strings(self, key: str, n: int) -> list[bytes]:
        """A tight loop: half a million of them open in a tenth of a second."""
        self._count(key, n)
        view, at, size, length = self.view, self.at, self.size, _U64.unpack_from
        found = []
        for _ in range(n):
            begin = at + 8
            at = begin + length(view, at)[0] if begin <= size else size + 1
            if at > size:
                raise self._too_short(key, at - self.at)
            found.append(bytes(view[begin:at]))
        self.at = at
        return found

    def _numbers(self, key: str, dtype: np.dtype[Any], n: int) -> Array:
        begin = self._take(key, n * dtype.itemsize)
        numbers: Array = self.data[begin : self.at].view(dtype)
        if dtype == np.bool_ and (self.data[begin : self.at] > 1).any():
            raise CheckpointError(f"{self.path}: expected 0 or 1 in {key}, found another byte; download it again")
        return numbers

    def _take(self, what: str, n: int) -> int:
        """Pass over n bytes; where they begin."""
        begin = self.at
        if n > self.size - begin:
            raise self._too_short(what, n)
        self.at = begin + n
        return begin

    def _count(self, what: str, n: int) -> None:
        self.n_strings += n
        if self.n_strings > MAX_STRINGS:
            raise CheckpointError(
                f"{self.path}: expected at most {MAX_STRINGS} strings in the header, found more ({what}); "
                "download it again"
            )

    def _too_short(self, what: str, n: int) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: expected at least {n} bytes for {what} at byte {self.at}, found {self.size - self.at} to "
            "the end of the file; download it again"
        )

    def _bad_type(self, key: str, kind: int) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: expected a number, string or array of them as {key}, found type {kind}; download it again"
        )


def _brief(value: Value) -> str:
    return f"an array of {len(value)}" if isinstance(value, (list, np.ndarray)) else repr(value)[:40]
