"""Named tensors of checkpoint files, whatever the container: what a reader asks of one file, and of several as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from octuor.checkpoint.files import MappedFile
from octuor.errors import CheckpointError
from octuor.quant.base import Array

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),  # as bits
    "F8_E4M3": np.dtype(np.uint8),  # as bits
    "F8_E5M2": np.dtype(np.uint8),  # as bits
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Tensor:
    """One entry of a file's index. dtype is a key of DTYPES; `begin` counts from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def end(self) -> int:
        """Where its data ends, from the start of the data."""
        return self.begin + self.n_bytes


@dataclass(frozen=True)
class Place:
    """Where a file may hold a weight: a tensor, its whole shape, and the weight's part of it."""

    tensor: str
    shape: tuple[int, ...]
    part: tuple[int | slice, ...] = ()


class TensorFile(Protocol):
    """An opened file of named tensors: its index has been read and checked, its data is mapped."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its entries by name."""

    @property
    def file(self) -> MappedFile:
        """Its bytes."""

    def get(self, name: str) -> Array:
        """A tensor of tensors[name].shape and DTYPES[dtype], a view where the file's layout allows it."""


class TensorStore:
    """The tensors of several files under one roof.

    label   where the tensors are, for error messages
    owners  tensor -> name of the file that shall give it where several hold it; else the first that does
    """

    def __init__(self, files: Sequence[TensorFile], label: str, owners: Mapping[str, str] | None = None) -> None:
        self.files = tuple(files)
        self.label = label
        self._holders = {name: file for file in reversed(files) for name in file.tensors}
        by_name = {file.path.name: file for file in files}
        for name, file_name in (owners or {}).items():
            if file_name in by_name and name in by_name[file_name].tensors:
                self._holders[name] = by_name[file_name]

    def __contains__(self, name: object) -> bool:
        return name in self._holders

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def tensor(self, name: str) -> Tensor:
        """The entry called `name`; CheckpointError where there is none."""
        return self._holder(name).tensors[name]

    def get(self, name: str) -> Array:
        """The tensor called `name`, as TensorFile.get has it; CheckpointError where there is none."""
        return self._holder(name).get(name)

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._holder(name).path

    def expect(self, name: str, dtypes: Sequence[str], shape: Sequence[int | None]) -> Array:
        """The tensor called `name` if it is of one of these dtypes and of this shape (None: any length).

        Raises CheckpointError, naming the tensor and its file, if it is not there or is another.
        """
        entry = self.tensor(name)
        fits = len(shape) == len(entry.shape) and all(
            wanted in (None, found) for wanted, found in zip(shape, entry.shape, strict=True)
        )
        if entry.dtype not in dtypes or not fits:
            wanted = ["any" if length is None else length for length in shape]
            raise CheckpointError(
                f"{name}: expected {' or '.join(dtypes)} {wanted}, file has {entry.dtype} {list(entry.shape)} "
                f"({self.path(name).name}); does config.json belong to these files?"
            )
        return self.get(name)

    def _holder(self, name: str) -> TensorFile:
        if name not in self._holders:
            raise CheckpointError(f"{self.label}: expected a tensor {name}, found none; download it again")
        return self._holders[name]
