"""config.json, old and new, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octuor.checkpoint.huggingface_config import read_config, write_config
from octuor.config import MISTRAL_7B, ModelConfig
from octuor.errors import CheckpointError, ConfigError

Settings = dict[str, Any]


def read(tmp_path: Path, settings: Settings) -> ModelConfig:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return read_config(tmp_path / "config.json").config


def test_old_config(tmp_path: Path, settings: Settings, config: ModelConfig) -> None:
    assert read(tmp_path, settings) == config


@pytest.mark.parametrize("field", ["rope_parameters", "rope_scaling"])
def test_new_config_nests_rope_theta(tmp_path: Path, settings: Settings, config: ModelConfig, field: str) -> None:
    del settings["rope_theta"]
    settings[field] = {"rope_type": "default", "rope_theta": 5e5}
    assert read(tmp_path, settings) == replace(config, rope_theta=5e5)


def test_null_head_dim_and_kv_heads_follow_from_the_rest(tmp_path: Path, settings: Settings) -> None:
    settings |= {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None}
    found = read(tmp_path, settings)
    assert (found.head_dim, found.n_kv_heads) == (10, 4)


def test_mistral_is_dense_with_its_own_silent_values(tmp_path: Path, settings: Settings) -> None:
    for field in ("rope_theta", "sliding_window", "rms_norm_eps", "max_position_embeddings"):
        del settings[field]
    found = read(tmp_path, settings | {"model_type": "mistral"})
    assert found.is_dense
    assert (found.rope_theta, found.sliding_window, found.norm_eps, found.max_seq_len) == (1e4, 4096, 1e-6, 131072)


def test_sliding_window_is_taken_as_it_is_written(tmp_path: Path, settings: Settings) -> None:
    assert read(tmp_path, settings | {"sliding_window": 64}).sliding_window == 64
    assert read(tmp_path, settings | {"model_type": "mistral", "sliding_window": None}).sliding_window is None


def test_tied_embeddings(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    assert read_config(tmp_path / "config.json").is_tied


@pytest.mark.parametrize("changes", [{}, {"sliding_window": 64}])
def test_what_is_written_reads_the_same(tmp_path: Path, config: ModelConfig, changes: Settings) -> None:
    for model in (replace(config, **changes), replace(MISTRAL_7B, **changes)):
        (tmp_path / "config.json").write_text(write_config(model, "bfloat16"))
        assert read_config(tmp_path / "config.json").config == model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "expected model_type mixtral or mistral, found 'llama'"),
        ({"model_type": None}, "found None"),
        ({"hidden_act": "gelu"}, "expected hidden_act 'silu', found 'gelu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "found 'linear' in rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "found 'yarn' in rope_parameters"),
        ({"vocab_size": None}, "expected the field vocab_size"),
    ],
)
def test_refused(tmp_path: Path, settings: Settings, changes: Settings, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, settings | changes)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "40"}, "expected a positive int, found '40'"),
        ({"num_attention_heads": 0}, "n_heads: expected a positive int, found 0"),
        ({"num_key_value_heads": 3}, "expected a multiple"),
    ],
)
def test_impossible_values_are_placed(tmp_path: Path, settings: Settings, changes: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, settings | changes)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_not_a_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="expected a JSON"):
        read_config(tmp_path / "config.json")
