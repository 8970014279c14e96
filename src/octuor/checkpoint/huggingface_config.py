"""config.json of Hugging Face transformers, old and new, to ModelConfig and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Family:
    """A model type we run, with what transformers assumes where config.json is silent.

    Source: transformers, models/{mixtral,mistral}/configuration_*.py
    """

    architecture: str
    norm_eps: float
    rope_theta: float
    sliding_window: int | None


FAMILIES = {
    "mixtral": Family("MixtralForCausalLM", norm_eps=1e-5, rope_theta=1e6, sliding_window=None),
    "mistral": Family("MistralForCausalLM", norm_eps=1e-6, rope_theta=1e4, sliding_window=4096),
}
_MAX_SEQ_LEN = 131072  # what both assume for max_position_embeddings
_REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What a reader of the weights needs.

    is_tied       lm_head is the embedding
    quantization  quantization_config as it stands there; None: weights are plain
    """

    config: ModelConfig
    is_tied: bool
    quantization: Any = None


def read_config(path: Path) -> HuggingFaceConfig:
    """Read a config.json; CheckpointError if it describes a model that Octuor does not run."""
    try:
        return parse_config(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); download it again") from error


def parse_config(text: bytes, path: str) -> HuggingFaceConfig:
    """As read_config, of a file's contents; `path` names it in errors."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a JSON config, found {error}; download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(data).__name__}; download it again")
    family = _supported(data, path)
    if missing := [field for field in _REQUIRED if data.get(field) is None]:
        raise CheckpointError(
            f"{path}: expected the field {missing[0]}, found none; is this the model's own config.json?"
        )
    n_heads = data["num_attention_heads"]
    is_mixture = data["model_type"] == "mixtral"
    try:
        config = ModelConfig(
            dim=data["hidden_size"],
            n_layers=data["num_hidden_layers"],
            n_heads=n_heads,
            n_kv_heads=data.get("num_key_value_heads", 8) or n_heads,
            head_dim=data.get("head_dim") or _head_dim(data["hidden_size"], n_heads),
            hidden_dim=data["intermediate_size"],
            vocab_size=data["vocab_size"],
            n_experts=data.get("num_local_experts", 8) if is_mixture else 1,
            n_experts_per_token=data.get("num_experts_per_tok", 2) if is_mixture else 1,
            norm_eps=data.get("rms_norm_eps", family.norm_eps),
            rope_theta=_rope_theta(data, family, path),
            max_seq_len=data.get("max_position_embeddings", _MAX_SEQ_LEN),
            sliding_window=data.get("sliding_window", family.sliding_window),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    is_tied = bool(data.get("tie_word_embeddings", False))
    return HuggingFaceConfig(config, is_tied, data.get("quantization_config") or None)


def write_config(config: ModelConfig, dtype: str) -> str:
    """The text of a config.json that transformers 4 and 5 read; dtype as torch names it, such as "bfloat16"."""
    model_type = "mistral" if config.is_dense else "mixtral"
    data: dict[str, Any] = {
        "architectures": [FAMILIES[model_type].architecture],
        "model_type": model_type,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_seq_len,
        "sliding_window": config.sliding_window,
        "tie_word_embeddings": False,
        "bos_token_id": 1,  # <s> and </s> of every Mistral tokenizer
        "eos_token_id": 2,
        "torch_dtype": dtype,
    }
    if not config.is_dense:
        data |= {"num_local_experts": config.n_experts, "num_experts_per_tok": config.n_experts_per_token}
    return json.dumps(data, indent=2) + "\n"


def _supported(data: dict[str, Any], path: str) -> Family:
    """The model's family, after refusing what would be computed wrongly."""
    model_type = data.get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{path}: expected model_type {' or '.join(FAMILIES)}, found {model_type!r}; "
            "octuor runs Mixtral and Mistral models"
        )
    if (activation := data.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"{path}: expected hidden_act 'silu', found {activation!r}; octuor runs no other")
    return FAMILIES[model_type]


def _head_dim(dim: Any, n_heads: Any) -> Any:
    """dim / n_heads where both are sensible; otherwise ModelConfig refuses what is wrong with them."""
    sensible = isinstance(dim, int) and isinstance(n_heads, int) and n_heads > 0
    return dim // n_heads if sensible else 2


def _rope_theta(data: dict[str, Any], family: Family, path: str) -> Any:
    """The RoPE base: at the top in transformers 4, in rope_parameters in 5."""
    theta = data.get("rope_theta")
    for field in ("rope_scaling", "rope_parameters"):
        rope = data.get(field) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise CheckpointError(
                f"{path}: expected plain RoPE, found {kind!r} in {field}; octuor runs models without RoPE scaling"
            )
        theta = rope.get("rope_theta", theta)
    return family.rope_theta if theta is None else theta
