"""How Hugging Face folders say that their matrices are quantized: one scheme each. A new one is a module and a row.

config.json's quantization_config names a method; the method's tensors stand in the place of a module's `weight`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octuor.checkpoint.schemes import awq, bitsandbytes, compressed, exl2, fp8, gptq, hqq
from octuor.checkpoint.schemes.base import Finder, Scheme
from octuor.checkpoint.tensors import TensorStore
from octuor.errors import CheckpointError

SCHEMES: tuple[Scheme, ...] = (
    bitsandbytes.SCHEME,
    hqq.SCHEME,
    gptq.SCHEME,
    awq.SCHEME,
    compressed.SCHEME,
    fp8.SCHEME,
    exl2.SCHEME,
)
BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}


def read_settings(stated: Any, folder: Path) -> Any:
    """config.json's quantization_config, or what older folders say of it in a file of its own; None: nothing."""
    if (folder / "qmodel.pt").is_file():
        return {"quant_method": "hqq"}  # hqq's own folders say it in no other way
    for file, method in BESIDE.items() if stated is None else ():
        path = folder / file
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: expected JSON settings, found {error}; download it again") from error
        if isinstance(settings, dict):
            inner = settings.get("quantization")  # modelopt's
            return {"quant_method": method} | (inner if isinstance(inner, dict) else settings)
    return stated


def open_scheme(settings: Any, tensors: TensorStore, path: Path) -> Finder:
    """The finder for a config.json's quantization_config; CheckpointError where no scheme knows its method."""
    method = settings.get("quant_method", _older(settings)) if isinstance(settings, Mapping) else settings
    for scheme in SCHEMES:
        if method in scheme.methods:
            return scheme.open(settings, tensors)
    known = ", ".join(name for scheme in SCHEMES for name in scheme.methods) or "none"
    raise CheckpointError(
        f"{path}: expected plain weights (F32, F16 or BF16) or a quantization among {known}, found {method!r}; "
        "name the model's unquantized checkpoint and quantize it with `octuor convert`"
    )


def _older(settings: Mapping[str, Any]) -> str:
    """The method of a config that names none: of transformers before 4.35 and bitsandbytes, or one we do not know."""
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & settings.keys() else "unknown"
