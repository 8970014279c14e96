"""PyTorch's files without PyTorch: pickles of tensors put together by hand, and the archives around them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64
STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "uint16": "BFloat16Storage"}


def text(value: str) -> bytes:
    """The instruction that pushes a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """The instruction that pushes a whole number."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def sizes(values: tuple[int, ...]) -> bytes:
    """The instructions that push a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, kind: str, n: int) -> bytes:
    """The instructions that push a storage of n numbers."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(n) + b"tQ"


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The instructions that push a tensor."""
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + number(offset) + sizes(shape) + sizes(strides)
    return head + b"\x89ccollections\nOrderedDict\n)RtR"


def pickled(entries: Mapping[str, bytes]) -> bytes:
    """The pickle of a dict, given the instructions that push its values."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u."


def write_archive(path: Path, members: Mapping[str, bytes], **options: Any) -> Path:
    """A zip archive as torch.save makes it: the root folder is the file's name, every member begins at a cache line."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        assert archive.fp is not None
        for name, data in members.items():
            info = zipfile.ZipInfo(f"{path.stem}/{name}")
            info.compress_type = archive.compression
            gap = -(archive.fp.tell() + 30 + len(info.filename) + 4) % LINE
            info.extra = b"FB" + struct.pack("<H", gap) + bytes(gap)
            archive.writestr(info, data)
    return path


def write_torch(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Arrays as torch.save writes tensors, each with a storage of its own; uint16 is bfloat16."""
    entries, members = {}, {}
    for key, (name, x) in enumerate(arrays.items()):
        strides = tuple(stride // x.itemsize for stride in np.empty(x.shape, x.dtype).strides)
        entries[name] = tensor(storage(str(key), STORAGES[x.dtype.name], x.size), 0, x.shape, strides)
        members[f"data/{key}"] = np.ascontiguousarray(x).tobytes()
    return write_archive(path, {"data.pkl": pickled(entries), "byteorder": b"little", **members})
