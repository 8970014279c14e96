"""params.json, beside Mistral AI's own files of weights, to ModelConfig and back.

There are two spellings: Mistral's own (dim, hidden_dim, moe.num_experts) and, in repositories of early releases, that
of Hugging Face (hidden_size, intermediate_size, num_local_experts). A file may leave out what its readers assume.

Source: mistral-inference, args.py and transformer.py; transformers, convert_mixtral_weights_to_hf.py; vLLM,
transformers_utils/configs/mistral.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octuor.config import GEOMETRIES, ModelConfig
from octuor.errors import CheckpointError, ConfigError

_SPELLINGS = {
    "dim": ("dim", "hidden_size"),
    "n_layers": ("n_layers", "num_hidden_layers"),
    "n_heads": ("n_heads", "num_attention_heads"),
    "n_kv_heads": ("n_kv_heads", "num_key_value_heads"),
    "head_dim": ("head_dim",),
    "hidden_dim": ("hidden_dim", "intermediate_size"),
    "vocab_size": ("vocab_size",),
    "norm_eps": ("norm_eps", "rms_norm_eps"),
    "rope_theta": ("rope_theta",),
    "max_seq_len": ("max_seq_len", "max_position_embeddings"),
    "sliding_window": ("sliding_window",),
    "n_experts": ("num_experts", "num_local_experts"),
    "n_experts_per_token": ("num_experts_per_tok",),
}
_REQUIRED = ("dim", "n_layers", "n_heads", "hidden_dim")
_NORM_EPS = 1e-5
_THETA = 1e6  # what mistral-inference assumes
_THETA_WITH_WINDOW = 1e4  # what it assumed while Mistral-7B v0.1 was the only model with a sliding window
_MAX_SEQ_LEN = 32768  # of every Mistral and Mixtral model before 8x22B
# Parts of models that are none of ours; a file may name them as null.
_FOREIGN = (
    "quantization",
    "yarn",
    "llama_4_scaling",
    "vision_encoder",
    "multimodal",
    "lora",
    "rope_scaling",
    "q_lora_rank",
)


@dataclass(frozen=True)
class MistralParams:
    """What a reader of the weights needs; is_tied: lm_head is the embedding."""

    config: ModelConfig
    is_tied: bool


def read_params(path: Path, n_words: int) -> MistralParams:
    """Read a params.json; n_words is the embedding's rows, for files that do not say their vocab_size.

    Raises CheckpointError if it is no JSON object, lacks a field, or describes a model that Octuor does not run.
    """
    data = _read_object(path)
    foreign = [field for field in _FOREIGN if data.get(field)]
    model_type, activation = data.get("model_type", "transformer"), data.get("activation", "silu")
    if foreign or model_type not in ("transformer", "mistral", "mixtral") or activation != "silu":
        found = foreign[0] if foreign else f"model_type {model_type!r} with activation {activation!r}"
        raise CheckpointError(f"{path}: expected a Mistral or Mixtral model of plain weights, found {str(found)[:80]}")
    found_values = _values(data, path)
    if missing := [field for field in _REQUIRED if field not in found_values]:
        names = " or ".join(_SPELLINGS[missing[0]])
        raise CheckpointError(f"{path}: expected the field {names}, found none; is this the model's own params.json?")
    try:
        config = ModelConfig(**(_defaults(found_values, n_words) | found_values))
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return MistralParams(config, bool(data.get("tied_embeddings") or data.get("tie_word_embeddings")))


def write_params(config: ModelConfig) -> str:
    """The text of a params.json in Mistral's spelling, which mistral-inference and vLLM read."""
    data: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "head_dim": config.head_dim,
        "hidden_dim": config.hidden_dim,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "max_seq_len": config.max_seq_len,
    }
    if config.sliding_window is not None:
        data["sliding_window"] = config.sliding_window
    if not config.is_dense:
        data["moe"] = {"num_experts_per_tok": config.n_experts_per_token, "num_experts": config.n_experts}
    return json.dumps(data, indent=2) + "\n"


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, found {error}; download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(data).__name__}; download it again")
    return data


def _values(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of ModelConfig that the file gives, in either spelling, mixture of experts included."""
    moe = data.get("moe") or {}
    if not isinstance(moe, dict):
        raise CheckpointError(f"{path}: expected an object as moe, found a {type(moe).__name__}")
    flat = {**data, **moe}
    values: dict[str, Any] = {}
    for field, names in _SPELLINGS.items():
        given = [flat[name] for name in names if flat.get(name) is not None]
        if given:
            values[field] = given[0]
    window = values.get("sliding_window")
    if isinstance(window, str) and window.isdecimal():  # early files have it as text
        values["sliding_window"] = int(window)
    if isinstance(values.get("vocab_size"), int) and values["vocab_size"] <= 0:  # "ask the tokenizer"
        del values["vocab_size"]
    return values


def _defaults(found: Mapping[str, Any], n_words: int) -> dict[str, Any]:
    """What readers assume where a file is silent."""
    geometry = (found["dim"], found["n_layers"], found["hidden_dim"])
    known = [c for c in GEOMETRIES.values() if (c.dim, c.n_layers, c.hidden_dim) == geometry]
    is_dense = "n_experts" not in found
    heads = found["n_heads"]
    is_divisible = type(found["dim"]) is int and type(heads) is int and heads > 0
    return {
        "n_kv_heads": heads,
        "head_dim": found["dim"] // heads if is_divisible else 2,  # ModelConfig refuses what is wrong with them
        "vocab_size": n_words,
        "norm_eps": _NORM_EPS,
        "rope_theta": _THETA_WITH_WINDOW if "sliding_window" in found else _THETA,
        "max_seq_len": known[0].max_seq_len if known else _MAX_SEQ_LEN,
        "n_experts": 1,
        "n_experts_per_token": 1 if is_dense else 2,
    }
