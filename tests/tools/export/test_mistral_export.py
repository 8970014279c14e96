"""Folders for mistral-inference: they read back to the same weights, and mistral-common finds the tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.quant import BF16, F32
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.export import export
from tiny_models import TINY, random_checkpoint

SMALL = replace(TINY, vocab_size=300)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, n_experts=1, n_experts_per_token=1, sliding_window=64)])
def test_what_is_written_is_read(tmp_path: Path, config: ModelConfig) -> None:
    source = random_checkpoint(config, tokenizer=False)
    report = export(source, tmp_path / "x", "mistral", "f32")
    assert report.bytes_out == (tmp_path / "x" / "consolidated.safetensors").stat().st_size
    found = open_checkpoint(tmp_path / "x")
    assert (found.kind, found.config) == ("Mistral", config)
    for name in source.names:
        np.testing.assert_array_equal(found.get(name).to_f32(), source.get(name).to_f32(), err_msg=name)


def test_names_and_order_of_rows(tmp_path: Path) -> None:
    source = random_checkpoint(SMALL, tokenizer=False)
    export(source, tmp_path / "x", "mistral", "f32")
    wq = source.get("layers.1.wq").to_f32()
    with safe_open(tmp_path / "x" / "consolidated.safetensors", framework="np") as file:
        assert "layers.0.feed_forward.experts.3.w2.weight" in file.keys()  # noqa: SIM118 - it is no dict
        found = file.get_tensor("layers.1.attention.wq.weight")
    c = SMALL.head_dim
    np.testing.assert_array_equal(found[c + 2], wq[c + 1])  # rows of the second head: 0, C / 2, 1, C / 2 + 1, ...
    np.testing.assert_array_equal(found[c + 3], wq[c + 1 + c // 2])


@pytest.mark.parametrize(
    ("version", "name"),
    [("v1", "tokenizer.model"), ("v2", "tokenizer.model.v2"), ("v3", "tokenizer.model.v3")],  # a bare name is v1
)
def test_the_tokenizer_has_its_version_in_its_name(tmp_path: Path, version: str, name: str) -> None:
    model = find_mistral_common_tokenizer(version)
    source = random_checkpoint(replace(SMALL, vocab_size=32768))
    export(replace(source, tokenizer=model.read_bytes()), tmp_path / "x", "mistral")
    found = open_checkpoint(tmp_path / "x").tokenizer
    assert isinstance(found, Path)
    assert found.name == name
    assert found.read_bytes() == model.read_bytes()


def test_an_existing_checkpoint_is_kept_unless_asked(tmp_path: Path) -> None:
    export(random_checkpoint(SMALL, tokenizer=False), tmp_path / "x", "mistral", "f32")
    with pytest.raises(CheckpointError, match="expected a new folder, found a checkpoint"):
        export(random_checkpoint(SMALL, tokenizer=False), tmp_path / "x", "mistral", "bf16")
    assert open_checkpoint(tmp_path / "x").get("embed").format == F32
    export(random_checkpoint(SMALL, tokenizer=False), tmp_path / "x", "mistral", "bf16", overwrite=True)
    assert open_checkpoint(tmp_path / "x").get("embed").format == BF16
