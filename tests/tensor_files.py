"""Safetensors files of arrays in any dtype, and stores of them, for tests of readers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from octuor.checkpoint.tensors import DTYPES, Tensor, TensorStore

NAMES = {dtype: name for name, dtype in DTYPES.items()} | {np.dtype(np.uint16): "BF16", np.dtype(np.uint8): "U8"}
Arrays = Mapping[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Arrays) -> Path:
    """A file of arrays under their own dtypes; uint16 is bfloat16."""
    entries = [Tensor(name, NAMES[x.dtype], x.shape) for name, x in arrays.items()]
    write_safetensors(path, entries, lambda name: [arrays[name]], {"format": "pt"}, overwrite=True)
    return path


def store_of(path: Path, arrays: Arrays) -> TensorStore:
    """The arrays as a reader finds them, through a file."""
    file = SafetensorsFile(write_arrays(path, arrays))
    return TensorStore([file], str(path))


def read_arrays(path: Path, module: str) -> dict[str, NDArray[Any]]:
    """A module's tensors in a file, under the names that follow its own."""
    file = SafetensorsFile(path)
    return {name.removeprefix(f"{module}."): file.get(name) for name in file.tensors if name.startswith(f"{module}.")}
