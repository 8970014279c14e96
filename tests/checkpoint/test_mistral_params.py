"""params.json in both spellings, with what files leave out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octuor.checkpoint.mistral_params import read_params, write_params
from octuor.config import MISTRAL_7B, MIXTRAL_8X7B, MIXTRAL_8X22B, ModelConfig
from octuor.errors import OctuorError

TORRENT = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "norm_eps": 1e-05, "vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8},
}  # fmt: skip
REPOSITORY = {
    "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "vocab_size": 32000, "rope_theta": 1000000.0,
    "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768, "sliding_window": None,
}  # fmt: skip
V01 = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "norm_eps": 1e-05, "sliding_window": 4096, "vocab_size": 32000,
}  # fmt: skip
V03 = {**V01, "vocab_size": 32768, "rope_theta": 1000000.0, "sliding_window": None}
LARGE = {
    **TORRENT, "dim": 6144, "n_layers": 56, "n_heads": 48, "hidden_dim": 16384, "vocab_size": 32768,
    "rope_theta": 1000000,
}  # fmt: skip


def read(tmp_path: Path, data: Any, n_words: int = 32000) -> ModelConfig:
    path = tmp_path / "params.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_params(path, n_words).config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (TORRENT, MIXTRAL_8X7B),
        (REPOSITORY, MIXTRAL_8X7B),
        (LARGE, MIXTRAL_8X22B),
        (V01, replace(MISTRAL_7B, rope_theta=1e4, sliding_window=4096)),
        ({**V01, "sliding_window": "4096"}, replace(MISTRAL_7B, rope_theta=1e4, sliding_window=4096)),
        (V03, replace(MISTRAL_7B, vocab_size=32768)),
        ({**TORRENT, "vocab_size": -1}, MIXTRAL_8X7B),
        ({**TORRENT, "head_dim": None, "n_kv_heads": None}, replace(MIXTRAL_8X7B, n_kv_heads=32)),
        ({**TORRENT, "max_seq_len": 1000, "quantization": None}, replace(MIXTRAL_8X7B, max_seq_len=1000)),
    ],
)
def test_spellings_and_defaults(tmp_path: Path, data: dict[str, Any], expected: ModelConfig) -> None:
    assert read(tmp_path, data) == expected


@pytest.mark.parametrize(
    "config", [MIXTRAL_8X7B, MIXTRAL_8X22B, replace(MISTRAL_7B, sliding_window=4096, rope_theta=1e4)]
)
def test_what_is_written_is_read(tmp_path: Path, config: ModelConfig) -> None:
    assert read(tmp_path, write_params(config)) == config


def test_tied_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps({**V03, "tied_embeddings": True}))
    assert read_params(path, 32768).is_tied


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ("[]", "found a list"),
        ({}, "the field dim or hidden_size"),
        ({**TORRENT, "hidden_dim": None}, "the field hidden_dim or intermediate_size"),
        ({**TORRENT, "moe": [1]}, "an object as moe, found a list"),
        ({**TORRENT, "dim": "wide"}, r"config.dim: expected a positive int"),
        ({**TORRENT, "dim": [1]}, r"config.dim: expected a positive int"),
        ({**TORRENT, "n_heads": 0, "head_dim": None}, r"config.n_heads: expected a positive int"),
        ({**TORRENT, "n_kv_heads": 5}, "a multiple of n_kv_heads"),
        ({**TORRENT, "sliding_window": "wide"}, "sliding_window: expected a positive int"),
        ({**TORRENT, "quantization": {"qformat_weight": "fp8_e4m3"}}, "found quantization"),
        ({**TORRENT, "model_type": "mamba"}, "found model_type 'mamba'"),
        ({**TORRENT, "vision_encoder": {"hidden_size": 1024}}, "found vision_encoder"),
        ({**TORRENT, "yarn": {"factor": 8}}, "found yarn"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(OctuorError, match=message):
        read(tmp_path, data)
