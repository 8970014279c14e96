"""Folders in Mistral AI's own layout: params.json beside consolidated files; read here, written by tools/export.

E experts, F hidden_dim, D dim, H heads, C head_dim. Kinds of folder:

    consolidated.safetensors, or consolidated-0000N-of-*.safetensors     one matrix an expert and projection
    consolidated.00.pth, of the first torrent and of Mistral-7B          the same names, in a pickle
    consolidated.00.pt to 07.pt, of the first Mixtral repository         all experts in w1, w2, w3 [E*F, D]

Which names a folder uses is seen from the names themselves. In the stacked files w2 is transposed, expert by expert.
RoPE rotates neighbours (2i, 2i + 1) in all of them and halves in our kernels, so rows of wq and wk change places.

Source: mistral-inference, moe_one_file_ref.py; transformers, convert_mixtral_weights_to_hf.py; llama.cpp, convert.py of
December 2023; mlx-examples, mixtral/convert.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octuor.checkpoint.base import Checkpoint, Reader
from octuor.checkpoint.huggingface import FORMATS, check_tensor, is_huggingface_whole
from octuor.checkpoint.huggingface_config import read_config
from octuor.checkpoint.mistral_params import MistralParams, read_params
from octuor.checkpoint.shards import open_index, open_parts
from octuor.checkpoint.tensors import TensorStore
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.quant.base import Array
from octuor.tokenizer.registry import find_tokenizer_file, tokenizer_kind
from octuor.weights import Weight, weight_shapes

PARAMS = "params.json"
INDEX = "consolidated.safetensors.index.json"
SINGLE = "consolidated.safetensors"
_SHARD = re.compile(r"consolidated-(\d{5})-of-(\d{5})\.safetensors")
_PART = re.compile(r"consolidated\.(\d\d)\.(pth|pt)")
_TOP = {"embed": "tok_embeddings.weight", "norm": "norm.weight", "lm_head": "output.weight"}
_PARTS = {
    "attention_norm": "attention_norm.weight",
    "wq": "attention.wq.weight",
    "wk": "attention.wk.weight",
    "wv": "attention.wv.weight",
    "wo": "attention.wo.weight",
    "moe_norm": "ffn_norm.weight",
}
_EXPERT_PARTS = {"gate": "w1", "up": "w3", "down": "w2"}


@dataclass(frozen=True)
class Place:
    """Where a file may hold a weight: a tensor, its whole shape, the weight's rows of it, and whether transposed."""

    tensor: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    is_transposed: bool = False


def is_mistral(path: Path) -> bool:
    """Whether a path is a folder of consolidated files that is not a whole Hugging Face folder as well."""
    if not path.is_dir() or is_huggingface_whole(path):
        return False
    return any((path / name).is_file() for name in (PARAMS, "config.json")) and bool(_weight_files(path))


def open_mistral(path: Path) -> Checkpoint:
    """Map a folder's files. Raises CheckpointError naming the missing part or weight, or the wrong shape."""
    names = _weight_files(path)
    tensors = open_index(path / INDEX) if (path / INDEX).is_file() else open_parts(path, _all_of(path, names))
    params = _read_params(path, tensors)
    config = params.config
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, Place] = {}
    for name, shape in weight_shapes(config):  # ends at the first that is missing, however many there should be
        shapes[name], places[name] = shape, _find(name, shape, params, tensors)

    def load(name: str) -> Weight:
        place = places[name]
        data = tensors.get(place.tensor)
        if place.rows is not None:
            data = data[slice(*place.rows)]
        if place.is_transposed:
            data = data.T
        if name.endswith((".wq", ".wk")):
            data = halves_from_neighbours(data, config.head_dim)
        return Weight(data, shapes[name], FORMATS[tensors.tensor(place.tensor).dtype], name)

    tokenizer = find_tokenizer_file(path)
    kind = None if tokenizer is None else tokenizer_kind(tokenizer)
    files = tuple(file.file for file in tensors.files)
    return Checkpoint(config, path, READER.name, load, tokenizer, kind, files, _notes(path, places, tokenizer))


def places_of(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[Place]:
    """Where files may hold a canonical weight; the first is what mistral-inference reads and we write."""
    if name in _TOP:
        return [Place(_TOP[name], shape)]
    _, layer, part, *rest = name.split(".")
    at = f"layers.{layer}."
    if part == "router":
        return [Place(f"{at}feed_forward.gate.weight", shape), Place(f"{at}block_sparse_moe.gate.weight", shape)]
    if part != "experts":
        return [Place(at + _PARTS[part], shape)]
    expert, matrix = int(rest[0]), _EXPERT_PARTS[rest[1]]
    if config.is_dense:
        return [Place(f"{at}feed_forward.{matrix}.weight", shape)]
    f = config.hidden_dim
    stacked = Place(
        f"{at}block_sparse_moe.{matrix}", (config.n_experts * f, config.dim), (expert * f, (expert + 1) * f),
        matrix == "w2",
    )  # fmt: skip
    return [Place(f"{at}feed_forward.experts.{expert}.{matrix}.weight", shape), stacked]


def halves_from_neighbours(rows: Array, head_dim: int) -> Array:
    """Rows [H*C, in] of RoPE that rotates neighbours in the order for halves: a view [H, 2, C/2, in].

    Read in row order, its rows are the weight's.
    """
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2)


def neighbours_from_halves(rows: Array, head_dim: int) -> Array:
    """The inverse of halves_from_neighbours; a copy."""
    return np.ascontiguousarray(rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def _notes(path: Path, places: Mapping[str, Place], tokenizer: Path | None) -> tuple[str, ...]:
    notes = []
    if any(place.is_transposed for place in places.values()):
        notes.append("experts' w2 are transposed: they run from copies in memory; `octuor convert` mends it")
    if tokenizer is None and (path / "tekken.json").is_file():
        notes.append("tekken.json: a tokenizer that octuor does not read, so there are token ids only")
    return tuple(notes)


def _weight_files(path: Path) -> list[str]:
    """Names of a folder's consolidated files of the first kind there is."""
    names = sorted(entry.name for entry in path.iterdir() if entry.name.startswith("consolidated"))
    kinds = (
        [name for name in names if _SHARD.fullmatch(name)],
        [name for name in names if name == SINGLE],
        [name for name in names if (match := _PART.fullmatch(name)) and match[2] == "pth"],
        [name for name in names if (match := _PART.fullmatch(name)) and match[2] == "pt"],
    )
    return next((found for found in kinds if found), [INDEX] if INDEX in names else [])


def _all_of(path: Path, names: list[str]) -> list[str]:
    """The names, after making sure that none is missing between them."""
    match = _SHARD.fullmatch(names[0])
    if match:
        wanted = [f"consolidated-{n:05d}-of-{match[2]}.safetensors" for n in range(1, int(match[2]) + 1)]
    elif part := _PART.fullmatch(names[-1]):
        wanted = [f"consolidated.{n:02d}.{part[2]}" for n in range(int(part[1]) + 1)]
    else:
        wanted = names
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(
            f"{path}: expected {len(wanted)} parts, {len(missing)} are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); download them"
        )
    return wanted


def _read_params(path: Path, tensors: TensorStore) -> MistralParams:
    if not (path / PARAMS).is_file():
        read = read_config(path / "config.json")  # the same model, described for transformers
        if read.quantization is not None:
            raise CheckpointError(f"{path}: expected plain weights, config.json has a quantization_config")
        return MistralParams(read.config, read.is_tied)
    shape = tensors.tensor(_TOP["embed"]).shape
    return read_params(path / PARAMS, shape[0] if shape else 0)


def _find(name: str, shape: tuple[int, ...], params: MistralParams, tensors: TensorStore) -> Place:
    """The place that the files have for a weight, after checking it."""
    candidates = places_of(name, shape, params.config)
    if name == "lm_head" and params.is_tied:
        candidates += places_of("embed", shape, params.config)
    found = next((place for place in candidates if place.tensor in tensors), None)
    if found is None:
        raise CheckpointError(
            f"{name}: expected a tensor {candidates[0].tensor}, found none in {tensors.label}; "
            f"download the folder again, or is {PARAMS} another model's?"
        )
    check_tensor(name, found.tensor, found.shape, tensors, PARAMS)
    return found


READER = Reader("Mistral", "a folder with params.json and consolidated*", is_mistral, open_mistral)
