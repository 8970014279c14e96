"""What from_pretrained is given, sorted: ours, transformers' that mean something here, and those that need not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octuor.accounts import default_home
from octuor.checkpoint import open_checkpoint
from octuor.quant import Format
from octuor.tools.convert import convert

OWN = ("threads", "context", "cache_dtype", "resident", "memory", "adapter")
# Placement, precision and kernels decide themselves here; the last ones say how files are found, which the Hub's own
# environment variables do for Octuor.
LEFT_ALONE = frozenset(
    (
        "device_map", "max_memory", "dtype", "torch_dtype", "attn_implementation", "use_flash_attention_2",
        "low_cpu_mem_usage", "offload_folder", "offload_state_dict", "use_safetensors", "trust_remote_code",
        "experts_implementation", "token", "local_files_only", "cache_dir",
    )
)  # fmt: skip
PACKED = {"load_in_4bit": "q4", "load_in_8bit": "q8"}


@dataclass(frozen=True)
class Loading:
    """The arguments of octuor.load."""

    source: str | Path | None
    options: Mapping[str, Any]


def read_loading(source: str | Path | None, kwargs: Mapping[str, Any]) -> Loading:
    """Sort from_pretrained's arguments; packs the checkpoint if it is asked for in 4 or 8 bits.

    Raises TypeError for an argument that means nothing here, and what opening and converting do.
    """
    given = dict(kwargs)
    quantization = given.pop("quantization_config", None)
    options = {name: given.pop(name) for name in OWN if name in given}
    row = None
    for name, format_name in PACKED.items():
        if given.pop(name, False) or getattr(quantization, name, False):
            row = format_name
    unknown = sorted(given.keys() - LEFT_ALONE)
    if unknown:
        raise TypeError(f"from_pretrained: expected arguments of octuor.load or transformers, found {unknown[0]!r}")
    return Loading(source if row is None or source is None else _packed(source, row), options)


def _packed(source: str | Path, row: str) -> Path:
    """The checkpoint as a pack in that format, under OCTUOR_HOME; made the first time. One quantized already stays."""
    checkpoint = open_checkpoint(source)
    formats = {checkpoint.get(name).format for name in checkpoint.names if ".experts." in name}
    if not all(isinstance(found, Format) and not found.is_tiled for found in formats):
        return checkpoint.source
    files = sorted(Path(file.path) for file in checkpoint.files)
    key = hashlib.sha256()
    for file in files:
        stat = file.stat()
        key.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    out = default_home() / "packs" / f"{checkpoint.source.name}-{row}-{key.hexdigest()[:12]}.octuor"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        convert(checkpoint, out, row)
    return out
