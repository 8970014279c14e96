"""GGUF files of Mixtral and Mistral models, as llama.cpp writes them: single or sharded, old and new layouts.

E experts, F hidden_dim, D dim, C head_dim. Old files hold one matrix an expert and projection, new ones all experts of
a layer in one [E, F, D]. RoPE rotates neighbours in these files and halves in our kernels, so rows of wq and wk are
taken in another order: whole rows, which needs no decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from octuor.checkpoint.base import Checkpoint, Reader
from octuor.checkpoint.gguf_config import read_config
from octuor.checkpoint.gguf_file import MAGIC, GgufFile, GgufTensor
from octuor.checkpoint.gguf_shards import open_shards
from octuor.checkpoint.gguf_tokenizer import sentencepiece_model
from octuor.checkpoint.tensors import Place
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.quant.base import Array
from octuor.weights import Weight, weight_shapes

SUFFIX = ".gguf"
# Canonical names, and those of files, after "blk.N." for a layer's parts.
TOP = {"embed": "token_embd.weight", "norm": "output_norm.weight", "lm_head": "output.weight"}
PARTS = {
    "attention_norm": "attn_norm.weight",
    "wq": "attn_q.weight",
    "wk": "attn_k.weight",
    "wv": "attn_v.weight",
    "wo": "attn_output.weight",
    "moe_norm": "ffn_norm.weight",
    "router": "ffn_gate_inp.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file: by its suffix, or by its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_gguf(path: Path) -> Checkpoint:
    """Map a file, or all shards of one of them. Raises CheckpointError if it is damaged, or no model that we run."""
    shards = open_shards(path)
    first = shards.files[0]
    embed = shards.holders.get(TOP["embed"])
    if embed is None:
        raise CheckpointError(f"{path}: expected a tensor {TOP['embed']}, found none; is it a language model's file?")
    config = read_config(first, vocab_size=embed.tensors[TOP["embed"]].shape[0])
    shapes = dict(weight_shapes(config))
    places = _find_places(config, shapes, shards.holders, path)

    def load(name: str) -> Weight:
        place = places[name]
        file = shards.holders[place.tensor]
        data, entry = file.get(place.tensor)[place.part], file.tensors[place.tensor]
        if name.endswith((".wq", ".wk")):
            return _halves(data, entry, shapes[name], name, config.head_dim)
        return _weight(data, entry, shapes[name], name)

    tokenizer = sentencepiece_model(first, config.vocab_size)
    kind = None if tokenizer is None else "tokenizer.model"
    return Checkpoint(config, path, READER.name, load, tokenizer, kind, tuple(file.file for file in shards.files))


def places_of(name: str, shape: tuple[int, ...], config: ModelConfig) -> list[Place]:
    """Where files may hold a canonical weight."""
    if name in TOP:
        places = [Place(TOP[name], shape)]
        return [*places, Place(TOP["embed"], shape)] if name == "lm_head" else places
    _, layer, part, *rest = name.split(".")
    at = f"blk.{layer}."
    if part == "experts":
        return _expert_places(at, int(rest[0]), rest[1], shape, config)
    places = [Place(at + PARTS[part], shape)]
    if part in ("wq", "wk", "wv"):
        q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        rows = {"wq": slice(0, q), "wk": slice(q, q + kv), "wv": slice(q + kv, None)}[part]
        places.append(Place(at + "attn_qkv.weight", (q + 2 * kv, config.dim), (rows,)))
    return places


def _expert_places(at: str, expert: int, part: str, shape: tuple[int, ...], config: ModelConfig) -> list[Place]:
    if config.is_dense:
        return [Place(f"{at}ffn_{part}.weight", shape)]
    e, f = config.n_experts, config.hidden_dim
    places = [
        Place(f"{at}ffn_{part}_exps.weight", (e, *shape), (expert,)),
        Place(f"{at}ffn_{part}.{expert}.weight", shape),
    ]
    if part != "down":
        rows = slice(0, f) if part == "gate" else slice(f, None)
        places.append(Place(at + "ffn_gate_up_exps.weight", (e, 2 * f, config.dim), (expert, rows)))
    return places


def _find_places(
    config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], holders: Mapping[str, GgufFile], path: Path
) -> dict[str, Place]:
    """The place of every weight; every tensor has to be one, else the model is another than the config says."""
    places: dict[str, Place] = {}
    for name, shape in shapes.items():
        candidates = places_of(name, shape, config)
        found = next((place for place in candidates if place.tensor in holders), None)
        if found is None:
            raise CheckpointError(
                f"{name}: expected a tensor {candidates[0].tensor}, found none in {path}; download it again"
            )
        _check(name, found, holders[found.tensor])
        places[name] = found
    known = {place.tensor for place in places.values()}
    if _ROPE_FACTORS in holders:
        _check_rope_factors(holders[_ROPE_FACTORS])
        known.add(_ROPE_FACTORS)
    if others := sorted(set(holders) - known):
        raise CheckpointError(
            f"{path}: expected the weights of a Mixtral or Mistral model, found also {', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}; octuor does not run models that have such"
        )
    return places


def _check(name: str, place: Place, file: GgufFile) -> None:
    entry = file.tensors[place.tensor]
    if entry.shape != place.shape:
        raise CheckpointError(
            f"{name}: expected {list(place.shape)}, file has {list(entry.shape)} for {place.tensor} "
            f"({file.path.name}); is its metadata another model's?"
        )
    if len(place.shape) == 1 and entry.blocks.plain is None:
        raise CheckpointError(
            f"{name}: expected a vector of f32, f16 or bf16, file has {entry.blocks.name} for {place.tensor} "
            f"({file.path.name}); convert the model again"
        )


def _check_rope_factors(file: GgufFile) -> None:
    """Factors that change nothing may be there."""
    entry = file.tensors[_ROPE_FACTORS]
    if (entry.blocks.to_f32(file.get(_ROPE_FACTORS), {}, entry.shape) != 1).any():
        raise CheckpointError(
            f"{file.path}: expected plain RoPE, found factors ({_ROPE_FACTORS}); "
            "octuor runs models without RoPE scaling"
        )


def _weight(data: Array, entry: GgufTensor, shape: tuple[int, ...], name: str) -> Weight:
    """A part of a tensor, uint8 [..., row bytes], in a format of ours where there is one with these bytes."""
    plain = entry.blocks.plain
    if plain is None:
        return Weight(data, shape, entry.blocks, name)
    numbers = data.view(plain.dtype)
    return Weight(np.require(numbers, requirements="A"), shape, plain, name)  # files of alignment 1 may be at odd bytes


def _halves(data: Array, entry: GgufTensor, shape: tuple[int, ...], name: str, head_dim: int) -> Weight:
    """A matrix whose heads have rows i and i + C/2 as neighbours, in our order: a view [heads, 2, C/2, row bytes]."""
    pairs = data.reshape(-1, head_dim // 2, 2, data.shape[-1])
    return Weight(pairs.swapaxes(1, 2), shape, entry.blocks, name)


READER = Reader("GGUF", f"a GGUF file (*{SUFFIX})", is_gguf, open_gguf)
