"""A GGUF file's metadata to ModelConfig.

Source: llama.cpp, src/llama-arch.cpp (keys), src/llama-model.cpp and src/models/{llama,mistral3}.cpp (what they mean)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from octuor.checkpoint.gguf_file import GgufFile
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError

ARCHITECTURES = ("llama", "mistral3")
_ROPE_THETA = 10000.0  # what llama.cpp assumes
_MOST = {"block_count": 512, "expert_count": 512}  # as llama.cpp has it
# What would change the result, and the values at which it does not.
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "rope.scaling.factor": (0, 1),
    "rope.scale_linear": (0, 1),
    "attention.temperature_scale": (0,),
    "expert_shared_count": (0,),
}


def read_config(file: GgufFile, *, vocab_size: int) -> ModelConfig:
    """The model that a file's metadata describes; CheckpointError if it is none that Octuor runs."""
    arch = file.text("general.architecture")
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path}: expected general.architecture {' or '.join(ARCHITECTURES)}, found {arch!r}; "
            "octuor runs Mixtral and Mistral models"
        )
    _check_supported(file, arch)
    for key, most in _MOST.items():
        if (n := file.integer(f"{arch}.{key}") or 0) > most:
            raise CheckpointError(f"{file.path}: expected {arch}.{key} up to {most}, found {n}; download it again")

    def integer(key: str) -> int | None:
        return file.integer(f"{arch}.{key}")

    def required(key: str) -> int:
        if (value := integer(key)) is None:
            raise CheckpointError(f"{file.path}: expected {arch}.{key} in the metadata, found none; download it again")
        return value

    dim, n_heads = required("embedding_length"), required("attention.head_count")
    head_dim = integer("attention.key_length") or (dim // n_heads if n_heads > 0 else 0)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := integer(key)) not in (None, head_dim):
            raise CheckpointError(
                f"{file.path}: expected {arch}.{key} of {head_dim}, as long as a head's keys, found {found}; "
                "octuor does not run such models"
            )
    n_experts = integer("expert_count") or 1
    try:
        return ModelConfig(
            dim=dim,
            n_layers=required("block_count"),
            n_heads=n_heads,
            n_kv_heads=integer("attention.head_count_kv") or n_heads,
            head_dim=head_dim,
            hidden_dim=required("feed_forward_length"),
            vocab_size=vocab_size,
            n_experts=n_experts,
            n_experts_per_token=required("expert_used_count") if n_experts > 1 else 1,
            norm_eps=_number(file, f"{arch}.attention.layer_norm_rms_epsilon", 1e-5),
            rope_theta=_number(file, f"{arch}.rope.freq_base", _ROPE_THETA),
            max_seq_len=required("context_length"),
            sliding_window=integer("attention.sliding_window") or None,
        )
    except ConfigError as error:
        raise ConfigError(f"{file.path}: {error}") from error


def _number(file: GgufFile, key: str, default: float) -> Any:
    """A number as it was meant: files have 32 bits of it, so 1e-5 is not 9.999999747378752e-06."""
    value = file.number(key)
    return default if value is None else float(str(np.float32(value)))


def _check_supported(file: GgufFile, arch: str) -> None:
    """Refuse what would be computed wrongly."""
    kind = file.text(f"{arch}.rope.scaling.type")
    if kind not in (None, "none", "linear"):  # "linear" of factor 1 is plain
        raise CheckpointError(
            f"{file.path}: expected plain RoPE, found {kind!r} in {arch}.rope.scaling.type; "
            "octuor runs models without RoPE scaling"
        )
    for key, neutral in _NEUTRAL.items():
        if (found := file.number(f"{arch}.{key}")) is not None and found not in neutral:
            raise CheckpointError(
                f"{file.path}: expected no {arch}.{key}, found {found}; octuor does not run models that have it"
            )
