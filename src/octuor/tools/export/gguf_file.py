"""The GGUF container, version 3, written as a stream. Knows nothing of models.

    "GGUF", version, number of tensors, number of values     u32, u32, u64, u64
    values       key, type, value
    tensors      name, number of dimensions, dimensions with the fastest first, type, place in the data
    data         from a multiple of ALIGNMENT, each tensor at one

Source: ggml, docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from octuor.checkpoint.files import Blocks, replacing
from octuor.quant.base import Array

VERSION = 3
ALIGNMENT = 32  # what readers take where general.alignment is not given
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

Value = str | bool | int | float | Sequence[str] | Sequence[bytes] | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class TensorType:
    """A ggml type: its number, and the bytes of a block of numbers of one row."""

    number: int
    block: int
    block_bytes: int


F32 = TensorType(0, 1, 4)
F16 = TensorType(1, 1, 2)
Q8_0 = TensorType(8, 32, 34)
BF16 = TensorType(30, 1, 2)


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the file; shape as NumPy has it, slowest dimension first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) // self.type.block * self.type.block_bytes


def write_gguf(
    path: Path,
    values: Mapping[str, Value],
    tensors: Sequence[GgufTensor],
    pieces: Callable[[str], Iterable[Array]],
    *,
    overwrite: bool = False,
) -> int:
    """Write a file tensor by tensor, in the order given; returns its bytes.

    pieces  a tensor's name -> its data from first to last byte, in arrays of any dtype

    Raises CheckpointError before anything is written if the file exists or the disk has no room. Whatever is raised
    on the way leaves no file.
    """
    head = bytearray(b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(values)))
    for key, value in values.items():
        head += _string(key) + _value(value)
    at = 0
    for tensor in tensors:
        dims = tuple(reversed(tensor.shape))
        head += _string(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type.number, at)
        at += _aligned(tensor.n_bytes)
    head = head.ljust(_aligned(len(head)), b"\0")
    with replacing(path, len(head) + at, overwrite=overwrite) as whole_file, Blocks(whole_file) as file:
        file.write(bytes(head))
        for tensor in tensors:
            written = 0
            for piece in pieces(tensor.name):
                file.write_array(piece)
                written += piece.nbytes
            assert written == tensor.n_bytes, (tensor, written)
            file.write(bytes(_aligned(written) - written))
    return len(head) + at


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    """A value with its type: whole numbers as u32, except in arrays, where readers expect i32."""
    match value:
        case bool():
            return struct.pack("<IB", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
    head = struct.pack("<I", _ARRAY)
    if isinstance(value[0], (str, bytes)):
        texts = b"".join(_string(item) for item in value if isinstance(item, (str, bytes)))
        return head + struct.pack("<IQ", _STRING, len(value)) + texts
    kind, dtype = (_F32, "<f4") if isinstance(value[0], float) else (_I32, "<i4")
    return head + struct.pack("<IQ", kind, len(value)) + np.array(value, dtype=dtype).tobytes()
