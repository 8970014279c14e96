"""Folders that transformers and vLLM load: sharded safetensors of one matrix an expert, config.json, the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.files import replacing, replacing_folder
from octuor.checkpoint.huggingface import INDEX, SINGLE, places_of
from octuor.checkpoint.huggingface_config import write_config
from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.errors import FormatError
from octuor.quant import BF16, F16, F32, Format
from octuor.quant.base import Array
from octuor.tokenizer.registry import tokenizer_kind
from octuor.tools.convert import WeightStream
from octuor.tools.export.companions import huggingface_tokenizer
from octuor.weights import weight_shapes

FORMATS = ("bf16", "f16", "f32")
SHARD_BYTES = 5_000_000_000  # as save_pretrained cuts
STALE = ("config.json", "model*.safetensors", INDEX)
_ROWS = {row.name: row for row in (BF16, F16, F32)}
_TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_HEADER_ROOM = 64 << 20  # headers, index and configs of the largest model, with room

Pieces = Callable[[str], Iterable[Array]]  # canonical name -> its data, cut between rows


def export_huggingface(stream: WeightStream, out: Path, format_name: str, overwrite: bool) -> int:
    """Write a stream as a folder; returns the bytes of its weights. As registry.Target.write."""
    checkpoint, row = stream.checkpoint, _ROWS[format_name]
    files = huggingface_tokenizer(checkpoint)
    pieces = lambda name: stream.pieces(name, row)  # noqa: E731
    return write_folder(out, checkpoint.config, row, pieces, files, overwrite=overwrite)


def write_huggingface(
    path: Path,
    config: ModelConfig,
    get: Callable[[str], NDArray[np.float32]],
    dtype: Format,
    tokenizer: Path | None = None,
    *,
    overwrite: bool = False,
) -> int:
    """Write a model that lies in memory; returns the bytes of its weights.

    get        canonical name -> float32 of its shape; called once a weight, in the order of weight_shapes
    dtype      F32, F16 or BF16, for every tensor
    tokenizer  a tokenizer file to copy beside the weights

    Raises as write_folder.
    """
    files = {} if tokenizer is None else {tokenizer_kind(tokenizer): tokenizer.read_bytes()}
    return write_folder(path, config, dtype, lambda name: [dtype.quantize(get(name))], files, overwrite=overwrite)


def write_folder(
    path: Path,
    config: ModelConfig,
    row: Format,
    pieces: Pieces,
    files: Mapping[str, bytes],
    *,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> int:
    """Write a folder that transformers' AutoModelForCausalLM loads; returns the bytes of its weights.

    path         made if it is not there
    row          F32, F16 or BF16, for every tensor
    pieces       called once a weight, in the order of weight_shapes
    files        further files by name
    shard_bytes  a shard ends before the tensor that would make it larger; a model that fits has one, without an index

    Raises CheckpointError if the folder holds a checkpoint and overwrite is False, or if its disk has no room.
    """
    if row.name not in _ROWS:
        raise FormatError(f"Hugging Face export: expected {' or '.join(FORMATS)}, found {row.name!r}")
    names, tensors = {}, []
    for name, shape in weight_shapes(config):
        tensor = Tensor(places_of(name, shape, config)[0].tensor, row.safetensors, shape)
        names[tensor.name] = name
        tensors.append(tensor)
    data_bytes = sum(tensor.n_bytes for tensor in tensors)
    shards = cut(tensors, shard_bytes)
    written = 0
    with replacing_folder(path, data_bytes + _HEADER_ROOM, STALE, overwrite=overwrite) as folder:
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            weight_map |= {tensor.name: file for tensor in shard}
            written += write_safetensors(folder / file, shard, lambda tensor: pieces(names[tensor]), {"format": "pt"})
        texts = dict(files)
        if len(shards) > 1:
            index = {"metadata": {"total_size": data_bytes}, "weight_map": weight_map}
            texts[INDEX] = (json.dumps(index, indent=2) + "\n").encode()
        dtype = _TORCH_NAMES[row.name]
        texts["generation_config.json"] = b'{\n  "bos_token_id": 1,\n  "eos_token_id": 2\n}\n'
        texts["config.json"] = write_config(config, dtype).encode()
        for name, data in texts.items():
            write_file(folder / name, data)
    return written


def cut(tensors: Sequence[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Tensors in shards of at most shard_bytes, but for a single tensor that is larger; order is kept."""
    shards: list[list[Tensor]] = [[]]
    room = shard_bytes
    for tensor in tensors:
        if tensor.n_bytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.n_bytes
    return shards


def write_file(path: Path, data: bytes) -> None:
    """Write a small file whole."""
    with replacing(path, len(data), overwrite=True) as file:
        file.write(data)
