"""PyTorch's own files (.pt, .pth, .bin): a pickle that describes tensors, and their numbers beside it.

Since PyTorch 1.6 a file is a zip archive of stored members: `NAME/data.pkl`, and a storage each in `NAME/data/KEY`.
Before, it was a row of pickles (a magic number, a version, the machine, the tensors, the storages' keys) with the
storages behind them. Both are read; neither runs anything (see pickle_reader). A tensor is a place in a storage,
a shape and strides, so that two may share a storage or be views of each other.

Source: PyTorch, torch/serialization.py (_save, _legacy_save) and torch/_utils.py (_rebuild_tensor_v2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from octuor.checkpoint.files import MappedFile
from octuor.checkpoint.pickle_reader import MAX_BYTES, MAX_STEPS, Global, read_pickle
from octuor.checkpoint.tensors import DTYPES, Tensor
from octuor.checkpoint.zip_index import MAGIC, read_zip_index
from octuor.errors import CheckpointError
from octuor.quant.base import Array

SUFFIXES = (".pt", ".pth", ".bin")
PICKLE = 0x80  # what a pickle begins with
MAX_DIMENSIONS = 8
MAX_DEPTH = 4  # of dicts in dicts
MAX_EMPTY = 1 << 40  # lengths of an empty tensor, multiplied without the zeros
LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
_UNTYPED = ("torch.storage UntypedStorage", "torch UntypedStorage")
_DTYPES = {
    "torch float64": "F64",
    "torch float32": "F32",
    "torch float16": "F16",
    "torch bfloat16": "BF16",
    "torch float8_e4m3fn": "F8_E4M3",
    "torch float8_e5m2": "F8_E5M2",
    "torch int64": "I64",
    "torch int32": "I32",
    "torch int16": "I16",
    "torch int8": "I8",
    "torch uint64": "U64",
    "torch uint32": "U32",
    "torch uint16": "U16",
    "torch uint8": "U8",
    "torch bool": "BOOL",
}


@dataclass(frozen=True)
class _Storage:
    """Numbers that tensors are views of: n of a dtype, or n bytes where it has none."""

    key: str
    dtype: str | None
    n: int

    @property
    def n_bytes(self) -> int:
        return self.n if self.dtype is None else self.n * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class _View:
    """A tensor as the pickle describes it; offset and strides count numbers."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_Entries = tuple[dict[str, _View], dict[str, Any]]


class TorchFile:
    """A file of torch.save opened for reading: its description is read and checked, the data is mapped.

    tensors  by name, in the file's order; `begin` counts from the start of the file. Where dicts hold dicts, names
             are joined by dots
    values   what else is in them by name: None, bool, int, float, str, sizes, dtypes as "torch.float16"
    file     its bytes

    Raises CheckpointError if the file is none, is damaged, holds anything but a dict of tensors, or asks for anything
    to be run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        self.file.refuse_pointer()
        if self.file.bytes[: len(MAGIC)].tobytes() == MAGIC:
            (views, self.values), begins = self._read_zip()
        elif self.file.bytes[0] == PICKLE:
            (views, self.values), begins = self._read_legacy()
        else:
            raise self._bad("a file of torch.save, found another kind of file")
        self._strides: dict[str, tuple[int, ...]] = {}
        self.tensors: dict[str, Tensor] = {}
        for name, view in views.items():
            itemsize = DTYPES[view.dtype].itemsize
            self.tensors[name] = Tensor(name, view.dtype, view.shape, begins[view.storage.key] + view.offset * itemsize)
            self._strides[name] = tuple(stride * itemsize for stride in view.strides)

    def get(self, name: str) -> Array:
        """A tensor as a read-only view of the mapped file, strided where it was saved so; bfloat16 as uint16.

        A copy only where the file was packed by a program that does not align its members.
        """
        entry = self.tensors[name]
        dtype = DTYPES[entry.dtype]
        if entry.n_bytes == 0:
            return np.zeros(entry.shape, dtype)
        view: Array = np.ndarray(entry.shape, dtype, self.file.bytes, entry.begin, self._strides[name])
        return view if view.flags.aligned else view.copy()

    def _read_zip(self) -> tuple[_Entries, Mapping[str, int]]:
        members = read_zip_index(self.file.bytes, self.path)
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            found = "a TorchScript program" if any("/code/" in name for name in members) else f"{len(pickles)} of them"
            raise self._bad(f"one member data.pkl as torch.save writes it, found {found}")
        root = pickles[0].removesuffix("data.pkl")
        order = members.get(root + "byteorder")
        if order is not None and self.file.bytes[order.begin : order.end].tobytes() != b"little":
            raise self._bad("numbers in little-endian order, found another")
        member = members[pickles[0]]
        if member.end - member.begin > MAX_BYTES:
            raise self._bad(f"a description of at most {MAX_BYTES} bytes, found {member.end - member.begin}")
        data = self.file.bytes[member.begin : member.end].tobytes()
        entries = _Builder(self._bad).read(data, 0, str(self.path))[0]
        views = entries[0]
        begins = {}
        for view in views.values():
            key = view.storage.key
            stored = members.get(f"{root}data/{key}")
            if stored is None or stored.end - stored.begin != view.storage.n_bytes:
                found = "none" if stored is None else f"{stored.end - stored.begin}"
                raise self._bad(f"{view.storage.n_bytes} bytes in {root}data/{key[:80]}, found {found}")
            begins[key] = stored.begin
        return entries, begins

    def _read_legacy(self) -> tuple[_Entries, Mapping[str, int]]:
        data = self.file.bytes[:MAX_BYTES].tobytes()
        where = str(self.path)

        def nothing(*_: object) -> NoReturn:
            raise self._bad("a file of torch.save, found a pickle that calls for something before its tensors")

        values, at = [], 0
        for _ in range(3):  # the magic number, the version, the machine
            value, at = read_pickle(data, at, where, nothing, nothing)
            values.append(value)
            if values[0] != LEGACY_MAGIC:
                raise self._bad("a file of torch.save, found a pickle of something else")
        if values[1] != LEGACY_VERSION or type(values[2]) is not dict or values[2].get("little_endian") is not True:
            raise self._bad(f"version {LEGACY_VERSION} in little-endian order, found another")
        builder = _Builder(self._bad)
        entries, at = builder.read(data, at, where)
        views = entries[0]
        keys, at = read_pickle(data, at, where, nothing, nothing)
        if type(keys) is not list or len(keys) != len(set(map(str, keys))):
            raise self._bad("a list of storages behind the tensors, found something else")
        begins: dict[str, int] = {}
        for key in keys:
            storage = builder.storages.get(key) if type(key) is str else None
            n = int.from_bytes(self.file.bytes[at : at + 8].tobytes(), "little")
            if storage is None or n != storage.n or at + 8 + storage.n_bytes > self.file.bytes.size:
                raise self._bad("the storages that its tensors name, found others, or the file's end")
            begins[storage.key] = at + 8
            at += 8 + storage.n_bytes
        if missing := [view.storage.key for view in views.values() if view.storage.key not in begins]:
            raise self._bad(f"a storage {missing[0][:80]}, found none")
        return entries, begins

    def _bad(self, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: expected {expected}; nothing of it was run; download it again")


class _Builder:
    """What a pickle of tensors may name and call, and what we make of it: descriptions."""

    def __init__(self, bad: Callable[[str], CheckpointError]) -> None:
        self.bad = bad
        self.storages: dict[str, _Storage] = {}
        self.n_entries = 0

    def read(self, data: bytes, at: int, where: str) -> tuple[_Entries, int]:
        """The tensors and plain values of a pickled dict by name, and where the pickle ends; others are left out."""
        value, end = read_pickle(data, at, where, self.call, self.find_storage)
        if type(value) is not dict:
            raise self.bad(f"a dict of tensors, found a {type(value).__name__}")
        views: dict[str, _View] = {}
        values: dict[str, Any] = {}
        self.sort("", value, views, values, MAX_DEPTH)
        if not views:
            raise self.bad("a dict of tensors, found a dict of other things")
        return (views, values), end

    def sort(self, at: str, value: Any, views: dict[str, _View], values: dict[str, Any], depth: int) -> None:
        """Put a dict's entries, and those of dicts in it, under their names, each of which there may be once."""
        self.n_entries += len(value)  # a dict may hold another any number of times
        if self.n_entries > MAX_STEPS:
            raise self.bad(f"at most {MAX_STEPS} entries, found more")
        for key, entry in value.items():
            if type(key) is not str:
                continue
            name = f"{at}{key}"
            if name in views or name in values:
                raise self.bad(f"one entry {name[:80]}, found two")
            if type(entry) is _View:
                views[name] = entry
            elif type(entry) is dict and depth:
                self.sort(f"{name}.", entry, views, values, depth - 1)
            elif type(entry) is Global:
                values[name] = entry.name.replace(" ", ".")
            elif entry is None or type(entry) in (bool, int, float, str) or _are_sizes(entry):
                values[name] = entry

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        match name, args:
            case "collections OrderedDict", ():
                return {}
            case "torch Size", (sizes,) if _are_sizes(sizes):
                return sizes
            case "torch._utils _rebuild_tensor_v2", (storage, offset, shape, strides, _, _):
                return self.view(storage, offset, shape, strides)
            case "torch._utils _rebuild_tensor", (storage, offset, shape, strides):
                return self.view(storage, offset, shape, strides)
            case "torch._utils _rebuild_tensor_v3", (storage, offset, shape, strides, _, _, Global(dtype)):
                return self.view(storage, offset, shape, strides, dtype)
            case "torch._utils _rebuild_parameter", (_View() as view, _, _):
                return view
        raise self.bad(f"a pickle of tensors alone, found a call of {name[:80]} with {len(args)} arguments")

    def find_storage(self, given: Any) -> _Storage:
        match given:
            case ("storage", Global(kind), str(key), str(), int(n)) | (
                "storage", Global(kind), str(key), str(), int(n), None,
            ):  # fmt: skip
                dtype = _STORAGES.get(kind)
                if dtype is None and kind not in _UNTYPED:
                    raise self.bad(f"numbers of a type among {', '.join(DTYPES)}, found {kind[:80]}")
                found = _Storage(key, dtype, n)
                if n < 0 or self.storages.setdefault(key, found) != found:
                    raise self.bad(f"one description of the storage {key[:80]}, found another of it")
                return found
        raise self.bad("a reference to a storage, found another")

    def view(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype_name: str | None = None) -> _View:
        """A tensor whose every number lies in its storage and which has no more numbers than that."""
        if (
            type(storage) is not _Storage
            or not _are_sizes((offset,))
            or not (_are_sizes(shape) and _are_sizes(strides))
        ):
            raise self.bad("a tensor with a storage, offset, shape and strides, found one with something else")
        dtype = storage.dtype if dtype_name is None else _DTYPES.get(dtype_name)
        if dtype is None:
            raise self.bad(f"numbers of a type among {', '.join(DTYPES)}, found {(dtype_name or 'bytes')[:80]}")
        n = storage.n_bytes // DTYPES[dtype].itemsize
        if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            raise self.bad(f"a stride for each of at most {MAX_DIMENSIONS} dimensions, found {len(strides)}")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        is_within = last < n if prod(shape) else prod(size or 1 for size in shape) < MAX_EMPTY
        if prod(shape) > n or not is_within:
            raise self.bad(f"tensors within their storages of {n} numbers, found one of {prod(shape)} to {last}")
        # where there is nothing to step to, a stride may be any number
        used = tuple(stride if size > 1 else 0 for size, stride in zip(shape, strides, strict=True))
        return _View(storage, dtype, offset, shape, used)


def _are_sizes(values: Any) -> bool:
    """Whether something is a tuple of whole numbers that a 64-bit file can mean."""
    return type(values) is tuple and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
