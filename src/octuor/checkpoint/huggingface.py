"""Folders in the Hugging Face layout: config.json beside safetensors files; read, and written for transformers.

E experts, F hidden_dim, D dim. Files hold one matrix an expert and projection (w1 gate, w3 up, w2 down) or, as
transformers 5 holds them in memory, all experts' gate and up in one [E, 2F, D] and down in one [E, D, F].
RoPE rotates halves in these files as in our kernels, so wq and wk are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.base import Checkpoint, Reader
from octuor.checkpoint.files import replacing
from octuor.checkpoint.huggingface_config import read_config, write_config
from octuor.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from octuor.checkpoint.schemes import open_scheme, read_settings
from octuor.checkpoint.tensors import Tensor, TensorStore
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant import BF16, F16, F32, Format
from octuor.quant.base import Array
from octuor.tokenizer.registry import find_tokenizer_file, tokenizer_kind
from octuor.weights import Weight, weight_shapes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FORMATS: dict[str, Format] = {row.safetensors: row for row in (F32, F16, BF16)}
TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "lm_head": "lm_head.weight"}
_PARTS = {
    "attention_norm": "input_layernorm.weight",
    "wq": "self_attn.q_proj.weight",
    "wk": "self_attn.k_proj.weight",
    "wv": "self_attn.v_proj.weight",
    "wo": "self_attn.o_proj.weight",
    "moe_norm": "post_attention_layernorm.weight",
    "router": "block_sparse_moe.gate.weight",
}
_SPARSE = "block_sparse_moe"
_EXPERT_PARTS = {"gate": "w1", "up": "w3", "down": "w2"}


@dataclass(frozen=True)
class Place:
    """Where a file may hold a weight: a tensor, its whole shape, and the weight's part of it."""

    tensor: str
    shape: tuple[int, ...]
    part: tuple[int | slice, ...] = ()


def is_huggingface(path: Path) -> bool:
    """Whether a path is a folder with a config.json."""
    return path.is_dir() and (path / "config.json").is_file()


def open_huggingface(path: Path) -> Checkpoint:
    """Map a folder's shards. Raises CheckpointError naming the missing shard or weight, or the wrong shape."""
    read = read_config(path / "config.json")
    tensors = _open_shards(path)
    settings = read_settings(read.quantization, path)
    find = None if settings is None else open_scheme(settings, tensors, path / "config.json")
    shapes = dict(weight_shapes(read.config))
    quantized: dict[str, Weight] = {}
    places: dict[str, Place] = {}
    for name, shape in shapes.items():
        candidates = places_of(name, shape, read.config)
        if name == "lm_head" and read.is_tied:
            candidates += places_of("embed", shape, read.config)
        modules = [place.tensor.removesuffix(".weight") for place in candidates]
        weight = next((w for module in modules if find and (w := find(module, shape, name)) is not None), None)
        if weight is not None:
            quantized[name] = weight
            continue
        found = next((place for place in candidates if place.tensor in tensors), None)
        if found is None:
            raise CheckpointError(
                f"{name}: expected a tensor {candidates[0].tensor}, found none in {tensors.label}; "
                "download the folder again, or is config.json another model's?"
            )
        _check(name, found, tensors)
        places[name] = found

    def load(name: str) -> Weight:
        if name in quantized:
            return quantized[name]
        place = places[name]
        row = FORMATS[tensors.tensor(place.tensor).dtype]
        return Weight(tensors.get(place.tensor)[place.part], shapes[name], row, name)

    tokenizer = find_tokenizer_file(path)
    kind = None if tokenizer is None else tokenizer_kind(tokenizer)
    return Checkpoint(read.config, path, READER.name, load, tokenizer, kind, tuple(file.file for file in tensors.files))


def write_huggingface(
    path: Path,
    config: ModelConfig,
    get: Callable[[str], NDArray[np.float32]],
    dtype: Format,
    tokenizer: Path | None = None,
    *,
    overwrite: bool = False,
) -> int:
    """Write a folder that transformers' AutoModelForCausalLM loads; returns the bytes of its weights.

    path       made if it is not there
    get        canonical name -> float32 of its shape; called once a weight, in the order of weight_shapes
    dtype      F32, F16 or BF16, for every tensor
    tokenizer  a tokenizer file to copy beside the weights

    Raises CheckpointError if the folder already holds a checkpoint and overwrite is False. config.json comes
    last, so an interrupted write is not mistaken for a checkpoint.
    """
    if dtype.name not in TORCH_DTYPES:
        raise FormatError(f"Hugging Face export: expected {' or '.join(TORCH_DTYPES)}, found {dtype.name!r}")
    tensors, names = [], {}
    for name, shape in weight_shapes(config):
        place = places_of(name, shape, config)[0]
        tensors.append(Tensor(place.tensor, dtype.safetensors, shape))
        names[place.tensor] = name

    def pieces(tensor: str) -> Iterable[Array]:
        return [dtype.quantize(get(names[tensor]))]

    text = write_config(config, TORCH_DTYPES[dtype.name]).encode()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot make the folder ({error.strerror}); choose another") from error
    if (path / "config.json").exists() and not overwrite:
        raise CheckpointError(
            f"{path}: expected a new folder, found a checkpoint; choose another, or ask to overwrite it"
        )
    n_bytes = write_safetensors(path / SINGLE, tensors, pieces, {"format": "pt"}, overwrite=True)
    if tokenizer is not None:
        _write(path / tokenizer_kind(tokenizer), tokenizer.read_bytes())  # the name that readers look for
    _write(path / "config.json", text)
    return n_bytes


def places_of(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[Place]:
    """Where files may hold a canonical weight; the first is what write_huggingface writes."""
    if name in _TOP:
        return [Place(_TOP[name], shape)]
    _, layer, part, *rest = name.split(".")
    at = f"model.layers.{layer}."
    if part == "router":
        return [Place(at + _PARTS[part], shape), Place(at + "mlp.gate.weight", shape)]
    if part != "experts":
        return [Place(at + _PARTS[part], shape)]
    expert, projection = int(rest[0]), rest[1]
    if config.is_dense:
        return [Place(f"{at}mlp.{projection}_proj.weight", shape)]
    e, d, f = config.n_experts, config.dim, config.hidden_dim
    whole = Place(f"{at}block_sparse_moe.experts.{expert}.{_EXPERT_PARTS[projection]}.weight", shape)
    # Quantizers take the modules of transformers 5 apart again, and name them each in its own way.
    apart = [Place(f"{at}{part}.experts.{expert}.{projection}_proj.weight", shape) for part in ("mlp", _SPARSE)]
    if projection == "down":
        return [whole, *apart, Place(at + "mlp.experts.down_proj", (e, d, f), (expert,))]
    rows = slice(0, f) if projection == "gate" else slice(f, 2 * f)
    return [whole, *apart, Place(at + "mlp.experts.gate_up_proj", (e, 2 * f, d), (expert, rows))]


def _open_shards(path: Path) -> TensorStore:
    if (path / INDEX).is_file():
        names = _shard_names(path / INDEX)
        if missing := [name for name in names if not (path / name).is_file()]:
            raise CheckpointError(
                f"{path}: expected {len(names)} shards, {len(missing)} are missing ({', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}); download them"
            )
    elif (path / SINGLE).is_file():
        names = [SINGLE]
    elif len(named := sorted(path.glob("*.safetensors"))) == 1 and not named[0].name.startswith("consolidated"):
        names = [named[0].name]  # such as gptq_model-4bit-128g.safetensors
    else:
        others = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".safetensors"))
        raise CheckpointError(
            f"{path}: expected {SINGLE} or {INDEX}, found {', '.join(others[:3]) or 'no weights'}; "
            "download the model's safetensors files"
        )
    files = [SafetensorsFile(path / name) for name in names]
    return TensorStore(files, str(files[0].path) if len(files) == 1 else f"the {len(files)} shards in {path}")


def _shard_names(index: Path) -> list[str]:
    try:
        weight_map: Mapping[str, str] = json.loads(index.read_bytes())["weight_map"]
        return sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: expected a JSON object with weight_map, found {error!r}; download it again"
        ) from error


def _check(name: str, place: Place, tensors: TensorStore) -> None:
    stored, file = tensors.tensor(place.tensor), tensors.path(place.tensor).name
    if stored.shape != place.shape:
        raise CheckpointError(
            f"{name}: expected {list(place.shape)}, file has {list(stored.shape)} for {place.tensor} "
            f"({file}); does config.json belong to these files?"
        )
    if stored.dtype not in FORMATS:
        raise CheckpointError(
            f"{name}: expected {', '.join(FORMATS)}, file has {stored.dtype} for {place.tensor} ({file}); "
            "name the model's unquantized checkpoint"
        )


def _write(path: Path, data: bytes) -> None:
    with replacing(path, len(data), overwrite=True) as file:
        file.write(data)


READER = Reader("Hugging Face", "a folder with config.json and *.safetensors", is_huggingface, open_huggingface)
