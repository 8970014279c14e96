"""Hugging Face folders of the toy, quantized: matrices packed by packed.py, the rest plain, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from packed import Stored

DTYPES = {"int32": "I32", "int64": "I64", "int16": "I16", "int8": "I8", "uint16": "BF16", "float16": "F16"}
Make = Callable[[tuple[int, int]], Stored]


@dataclass
class Quantized:
    """A folder before it is written.

    settings  all of config.json
    tensors   by name in the file
    values    what quantized matrices stand for, by the module's name
    byte      what uint8 is stored as
    """

    settings: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    values: dict[str, NDArray[np.float32]]
    byte: str = "F8_E4M3"

    @property
    def scheme(self) -> dict[str, Any]:
        """quantization_config."""
        found: dict[str, Any] = self.settings["quantization_config"]
        return found

    def write(self, path: Path, file: str = "model.safetensors") -> Path:
        """Make the folder."""
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(self.settings))
        dtypes = DTYPES | {"uint8": self.byte}
        entries = [Tensor(name, dtypes.get(str(x.dtype), "F32"), x.shape) for name, x in self.tensors.items()]
        write_safetensors(path / file, entries, lambda name: [self.tensors[name]], {}, overwrite=True)
        return path


def quantize(
    plain: Mapping[str, NDArray[np.float32]],
    settings: Mapping[str, Any],
    scheme: Mapping[str, Any],
    make: Make,
    byte: str = "F8_E4M3",
) -> Quantized:
    """The toy with what `make` gives in place of attention's and experts' matrices."""
    tensors: dict[str, NDArray[Any]] = {}
    values = {}
    for name, x in plain.items():
        module = name.removesuffix(".weight")
        if ".self_attn." not in name and ".experts." not in name:
            tensors[name] = x
            continue
        stored = make((x.shape[0], x.shape[1]))
        values[module] = stored.values
        tensors |= {f"{module}.{part}": array for part, array in stored.tensors.items()}
    return Quantized({**settings, "quantization_config": dict(scheme)}, tensors, values, byte)
