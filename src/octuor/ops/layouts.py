"""Storages of other programs as the native kernels take them: the arrays and numbers that _native.Matrix asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.quant.awq import Awq
from octuor.quant.base import Storage
from octuor.quant.bitsandbytes import BitsAndBytes4, BitsAndBytes8
from octuor.quant.compressed import Bytes, Packed
from octuor.quant.fp8 import Fp8
from octuor.quant.gguf import Blocks
from octuor.quant.gptq import Gptq
from octuor.quant.hqq import PACKED_BITS, Hqq
from octuor.weights import Weight

Arrays = Mapping[str, NDArray[Any]]

DTYPES = ("f32", "f16", "bf16")  # by their numbers in the kernels
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


@dataclass(frozen=True)
class Layout:
    """What _native.Matrix takes beside the shape; `name` is the kernels' own."""

    name: str
    data: NDArray[Any]
    parts: Arrays = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)


def native_name(storage: Storage) -> str | None:
    """What the kernels call a storage of another program, if they have it; None where nobody has said how it lies."""
    if isinstance(storage, Hqq):
        return f"hqq-{PACKED_BITS[storage.bits]}"
    kinds = Blocks | Gptq | Awq | Fp8 | Bytes | Packed | BitsAndBytes4 | BitsAndBytes8
    return storage.name if isinstance(storage, kinds) else None


def layout(weight: Weight) -> Layout:
    """A weight of a storage that has a native name: views of its arrays, but for small computed ones."""
    storage, shape = weight.format, weight.shape
    name = native_name(storage)
    assert name is not None, storage
    parts: Arrays = weight.parts
    numbers: dict[str, int] = {}
    match storage:
        case Gptq():
            numbers = {"group_size": storage.group_size, "added": added_to_zeros(storage)}
        case Awq():
            numbers = {"group_size": storage.group_size, "added": 0}
        case Fp8():
            numbers = {
                "block_rows": storage.block_rows or shape[0],
                "block_inputs": storage.block_inputs or shape[1],
            }
        case Bytes():
            numbers = {"block_rows": storage.block_rows or shape[0], "block_inputs": shape[1]}
        case Packed():
            numbers = {"group_size": storage.group_size}
            if "g_idx" in parts and (parts["g_idx"] == -1).all():
                parts = {key: part for key, part in parts.items() if key != "g_idx"}
        case BitsAndBytes4():
            skip, nested_skip = (int(n) for n in parts.get("skip", (0, 0)))
            numbers = {"dtype": DTYPES.index(storage.dtype), "block_size": storage.block_size, "skip": skip}
            if storage.nested_block_size is not None:
                numbers |= {"nested_block_size": storage.nested_block_size, "nested_skip": nested_skip}
        case Hqq():
            parts, numbers = _hqq(storage, parts, shape)
    return Layout(name, weight.data, parts, numbers)


def added_to_zeros(storage: Gptq) -> int:
    """What turns a word of stored zeros into one of zeros; of 3 bits, a stored zero."""
    if storage.bits == 3:
        return storage.zero_offset
    return sum(storage.zero_offset << at for at in range(0, 32, storage.bits))


def _hqq(storage: Hqq, parts: Arrays, shape: tuple[int, ...]) -> tuple[Arrays, dict[str, int]]:
    """Zeros and scales as they are stored where the computation has them so, else as float32."""
    rows, columns = storage.grid
    names = ("zero", "scale")
    plain = {key: parts[key] for key in names if key in parts and parts[key].ndim == 2}
    if any(key not in plain or plain[key].dtype != STORED[storage.dtype] for key in names):
        n = rows if storage.axis == 1 else columns
        plain = {key: np.broadcast_to(storage.of_groups(key, parts).reshape(-1), (n,)).copy() for key in names}
    first_row = int(parts["first_row"][0]) if "first_row" in parts else 0
    numbers = {
        "rows": rows,
        "columns": columns,
        "axis": storage.axis,
        "dtype": DTYPES.index(storage.dtype),
        "skip": first_row * prod(shape[1:]),
    }
    return {key: part.reshape(-1) for key, part in plain.items()}, numbers
