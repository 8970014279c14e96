"""Folders that mistral-inference loads: consolidated.safetensors, params.json and the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from octuor.checkpoint.files import replacing_folder
from octuor.checkpoint.mistral import PARAMS, SINGLE, neighbours_from_halves, places_of
from octuor.checkpoint.mistral_params import write_params
from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.quant import BF16, F16, F32
from octuor.quant.base import Array
from octuor.tools.convert import WeightStream
from octuor.tools.export.companions import checkpoint_tokenizer, tokenizer_files
from octuor.tools.export.huggingface import write_file
from octuor.weights import weight_shapes

FORMATS = ("bf16", "f16", "f32")
STALE = (PARAMS, "consolidated*")
_ROWS = {row.name: row for row in (BF16, F16, F32)}
_ROOM = 64 << 20  # header, params.json and tokenizer, with room


def export_mistral(stream: WeightStream, out: Path, format_name: str, overwrite: bool) -> int:
    """Write a stream as a folder; returns the bytes of its weights. As registry.Target.write."""
    checkpoint, row = stream.checkpoint, _ROWS[format_name]
    config = checkpoint.config
    names, tensors = {}, []
    for name, shape in weight_shapes(config):
        tensor = Tensor(places_of(name, shape, config)[0].tensor, row.safetensors, shape)
        names[tensor.name] = name
        tensors.append(tensor)

    def pieces(tensor: str) -> Iterable[Array]:
        name = names[tensor]
        found = stream.pieces(name, row)
        if name.endswith((".wq", ".wk")):  # heads are cut by blocks of rows
            return [neighbours_from_halves(np.concatenate(list(found)), config.head_dim)]
        return found

    texts = {PARAMS: write_params(config).encode(), **_tokenizer(stream)}
    n_bytes = sum(tensor.n_bytes for tensor in tensors) + _ROOM
    with replacing_folder(out, n_bytes, STALE, overwrite=overwrite) as folder:
        written = write_safetensors(folder / SINGLE, tensors, pieces, {"format": "pt"})
        for name, data in texts.items():
            write_file(folder / name, data)
    return written


def _tokenizer(stream: WeightStream) -> dict[str, bytes]:
    """The tokenizer's file by the name from which mistral-common takes its version."""
    files = tokenizer_files(stream.checkpoint)
    tokenizer = checkpoint_tokenizer(stream.checkpoint)
    if "tokenizer.model" not in files or tokenizer is None:
        return {name: data for name, data in files.items() if name == "tokenizer.json"}
    source = stream.checkpoint.tokenizer
    if isinstance(source, Path) and source.name != "tokenizer.model":
        name = source.name
    elif tokenizer.control_id("[INST]") is None:
        name = "tokenizer.model"  # read as v1
    else:
        name = "tokenizer.model.v2" if tokenizer.control_id("[IMG]") is None else "tokenizer.model.v3"
    return {name: files["tokenizer.model"]}
