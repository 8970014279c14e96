"""One small matrix of each of some samples that other programs wrote, and the CRC-32 of what those programs read back.

`python tests/quant/recorded.py FOLDER...` records it from folders that the writers in tests/formats filled: module
model.layers.0.self_attn.k_proj of the model "odd", [32, 96]. They were
written by gptqmodel 7.6.0, llmcompressor 0.14.0.1 with compressed-tensors 0.19.0, and transformers 5.23.0.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECORDED = Path(__file__).with_name("recorded.npz")
MODULE = "model.layers.0.self_attn.k_proj"
SAMPLES = (
    "gptq-3-order", "gptq-4-odd", "gptq-4-row", "gptq-8-v2", "awq-4-odd", "w4-group-32", "w3-channel", "fp8",
    "fp8-block-odd", "fp8-small-blocks",
)  # fmt: skip


def recorded(
    sample: str,
) -> tuple[dict[str, NDArray[Any]], tuple[int, int], dict[str, Any], Callable[[NDArray[np.float32]], bool]]:
    """A sample's tensors by the end of their names, its shape, its settings, and whether numbers are the program's."""
    with np.load(RECORDED) as file:
        parts = {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{sample}/")}
    about = json.loads(parts.pop("about").tobytes())
    return parts, tuple(about["shape"]), about["settings"], lambda x: zlib.crc32(x.tobytes()) == about["crc"]


def record(folders: list[Path]) -> None:
    """Write the file from samples in these folders."""
    from octuor.checkpoint.safetensors_file import SafetensorsFile

    arrays: dict[str, Any] = {}
    for sample in SAMPLES:
        path = next(folder / sample for folder in folders if (folder / sample / "expected.npz").exists())
        file = SafetensorsFile(path / "model.safetensors")
        for name in file.tensors:
            if name.startswith(f"{MODULE}."):
                arrays[f"{sample}/{name.removeprefix(MODULE + '.')}"] = file.get(name)
        settings = json.loads((path / "config.json").read_text())["quantization_config"]
        settings.pop("meta", None)
        with np.load(path / "expected.npz") as expected:
            values = expected[MODULE].astype(np.float32)
        about = {"shape": values.shape, "settings": settings, "crc": zlib.crc32(np.ascontiguousarray(values).tobytes())}
        arrays[f"{sample}/about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(RECORDED, **arrays)


if __name__ == "__main__":
    record([Path(folder) for folder in sys.argv[1:]])
