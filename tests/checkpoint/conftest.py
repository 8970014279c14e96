"""A toy mixture's weights, whole tensors of a Hugging Face folder, and how to write such a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.weights import weight_shapes

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture
def config() -> ModelConfig:
    """Small, and no axis a multiple of a tile: 64 rows x 256 inputs."""
    return ModelConfig(
        dim=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, hidden_dim=72, vocab_size=100, n_experts=3,
        max_seq_len=512,
    )  # fmt: skip


@pytest.fixture
def arrays(config: ModelConfig) -> Arrays:
    rng = np.random.default_rng(7)
    return {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.2) for name, shape in weight_shapes(config)
    }


@pytest.fixture
def settings(config: ModelConfig) -> dict[str, Any]:
    """config.json of the toy as transformers 4 writes it."""
    return {
        "model_type": "mixtral",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "num_local_experts": config.n_experts,
        "num_experts_per_tok": config.n_experts_per_token,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_seq_len,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }


@pytest.fixture
def tensors(config: ModelConfig, arrays: Arrays) -> Arrays:
    """The weights under the names that Hugging Face files have, spelled out here on their own."""
    named = {"model.embed_tokens.weight": arrays["embed"], "model.norm.weight": arrays["norm"]}
    named["lm_head.weight"] = arrays["lm_head"]
    for n in range(config.n_layers):
        at, here = f"model.layers.{n}.", f"layers.{n}."
        named[at + "input_layernorm.weight"] = arrays[here + "attention_norm"]
        named[at + "post_attention_layernorm.weight"] = arrays[here + "moe_norm"]
        for letter in "qkvo":
            named[f"{at}self_attn.{letter}_proj.weight"] = arrays[f"{here}w{letter}"]
        named[at + "block_sparse_moe.gate.weight"] = arrays[here + "router"]
        for e in range(config.n_experts):
            for theirs, ours in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
                named[f"{at}block_sparse_moe.experts.{e}.{theirs}.weight"] = arrays[f"{here}experts.{e}.{ours}"]
    return named


def save(path: Path, tensors: Mapping[str, NDArray[Any]], dtype: str = "F32") -> None:
    """Write arrays that are already stored as the dtype asks."""
    entries = [Tensor(name, dtype, x.shape) for name, x in tensors.items()]
    write_safetensors(path, entries, lambda name: [tensors[name]], {"format": "pt"})


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, settings: dict[str, Any], tensors: Arrays) -> Folder:
    """Makes a folder of the toy: folder(tensors=..., dtype=..., shards=..., **changed settings)."""

    def make(
        tensors: Mapping[str, NDArray[Any]] = tensors, *, dtype: str = "F32", shards: int = 1, **changes: Any
    ) -> Path:
        path = tmp_path / "model"
        path.mkdir()
        (path / "config.json").write_text(json.dumps(settings | changes))
        if shards == 1:
            save(path / "model.safetensors", tensors, dtype)
            return path
        weight_map: dict[str, str] = {}
        for i in range(shards):
            part = {name: tensors[name] for name in list(tensors)[i::shards]}
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            save(path / file, part, dtype)
            weight_map |= dict.fromkeys(part, file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return path

    return make
