"""Adapters of random numbers, as values and as folders in peft's layout, which need no peft."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from octuor.checkpoint.peft import CONFIG, TARGETS, TENSORS, peft_tensors, sites
from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from toys import F32Array, Values


def random_adapter(
    folder: Path,
    config: ModelConfig,
    seed: int,
    *,
    rank: int = 3,
    targets: Sequence[str] = TARGETS,
    alpha: float = 6.0,
) -> Path:
    """Write an adapter, and return its folder; the larger alpha is, the more it changes."""
    rng = np.random.default_rng(seed)
    pairs: dict[str, tuple[F32Array, F32Array]] = {}
    for site in sites(config, targets):
        out, inputs = site.shape
        a = rng.standard_normal((rank, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
        pairs[site.name] = (a, rng.standard_normal((out, rank)).astype(np.float32) / np.float32(6))
    tensors = peft_tensors(config, pairs)
    folder.mkdir(parents=True)
    places = [Tensor(name, "F32", array.shape, 0) for name, array in tensors.items()]
    write_safetensors(folder / TENSORS, places, lambda name: [tensors[name]], {})
    described = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": "tiny"}
    (folder / CONFIG).write_text(json.dumps(described))
    return folder


def merged(values: Values, changes: Values) -> dict[str, F32Array]:
    """A model's weights with changes added."""
    return {name: value + changes[name] if name in changes else value for name, value in values.items()}
