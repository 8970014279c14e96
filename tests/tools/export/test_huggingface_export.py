"""Folders for transformers: what is written reads back, in shards or not, and nothing is left of an interrupted one."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.huggingface import open_huggingface
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant import BF16, F16, F32, Q4, Format
from octuor.tokenizer import find_mistral_common_tokenizer, open_tokenizer
from octuor.tools.export import export
from octuor.tools.export.huggingface import cut, write_folder, write_huggingface
from octuor.weights import weight_shapes
from tiny_models import random_checkpoint

Arrays = dict[str, NDArray[np.float32]]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        dim=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, hidden_dim=72, vocab_size=100, n_experts=3,
        max_seq_len=512,
    )  # fmt: skip


@pytest.fixture
def arrays(config: ModelConfig) -> Arrays:
    rng = np.random.default_rng(7)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(config)}


def assert_holds(path: Path, arrays: Arrays) -> None:
    checkpoint = open_huggingface(path)
    assert set(checkpoint.names) == set(arrays)
    for name in checkpoint.names:
        np.testing.assert_array_equal(checkpoint.get(name).to_f32(), arrays[name], err_msg=name)


@pytest.mark.parametrize("row", [F32, F16, BF16])
def test_reads_back(tmp_path: Path, config: ModelConfig, arrays: Arrays, row: Format) -> None:
    path = tmp_path / "new" / "model"
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    n_bytes = write_huggingface(path, config, arrays.__getitem__, row, tmp_path / "tokenizer.model")
    assert n_bytes == (path / "model.safetensors").stat().st_size
    assert_holds(path, {name: row.dequantize(row.quantize(x), x.shape) for name, x in arrays.items()})
    checkpoint = open_huggingface(path)
    assert checkpoint.config == config
    assert checkpoint.tokenizer_bytes() == b"pieces"


def test_names_are_those_of_files(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    """One matrix an expert and projection, as vLLM and transformers 4 expect them."""
    write_huggingface(tmp_path / "model", config, arrays.__getitem__, F32)
    with safe_open(tmp_path / "model" / "model.safetensors", framework="np") as file:
        names = set(file.keys())
        assert len(names) == len(arrays)
        assert {
            "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
            "model.layers.1.self_attn.q_proj.weight",
            "model.layers.0.block_sparse_moe.gate.weight", "model.layers.1.block_sparse_moe.experts.2.w2.weight",
        } < names  # fmt: skip
        assert file.metadata() == {"format": "pt"}  # transformers looks for it


def test_of_a_dense_model(tmp_path: Path, config: ModelConfig) -> None:
    dense = replace(config, n_experts=1, n_experts_per_token=1)
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(dense)}
    write_huggingface(tmp_path / "model", dense, arrays.__getitem__, F32)
    assert_holds(tmp_path / "model", arrays)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "mistral"


def test_does_not_replace_a_checkpoint(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    write_huggingface(tmp_path, config, arrays.__getitem__, F32)
    with pytest.raises(CheckpointError, match="expected a new folder, found a checkpoint"):
        write_huggingface(tmp_path, config, arrays.__getitem__, BF16)
    write_huggingface(tmp_path, config, arrays.__getitem__, BF16, overwrite=True)
    assert open_huggingface(tmp_path).get("norm").format == BF16


def test_takes_plain_formats_only(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    with pytest.raises(FormatError, match=r"expected bf16 or f16 or f32, found 'q4'"):
        write_huggingface(tmp_path / "model", config, arrays.__getitem__, Q4)


def test_an_interrupted_export_is_not_a_checkpoint(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    del arrays["layers.1.wo"]
    with pytest.raises(KeyError):
        write_huggingface(tmp_path / "model", config, arrays.__getitem__, F32)
    assert not list(tmp_path.iterdir())


def test_an_overwritten_checkpoint_outlives_a_failed_export(
    tmp_path: Path, config: ModelConfig, arrays: Arrays
) -> None:
    write_huggingface(tmp_path / "model", config, arrays.__getitem__, F32)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    nothing: Arrays = {}
    with pytest.raises(KeyError):
        write_huggingface(tmp_path / "model", config, nothing.__getitem__, F32, overwrite=True)
    assert_holds(tmp_path / "model", arrays)
    write_huggingface(tmp_path / "model", config, arrays.__getitem__, F16, overwrite=True)
    assert open_huggingface(tmp_path / "model").get("norm").format == F16
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_shards(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    def pieces(name: str) -> list[NDArray[np.float32]]:
        return [arrays[name]]

    write_folder(tmp_path / "x", config, F32, pieces, {}, shard_bytes=100_000)
    files = sorted(file.name for file in (tmp_path / "x").glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    index = json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in arrays.values())
    assert sorted(set(index["weight_map"].values())) == files
    assert_holds(tmp_path / "x", arrays)
    # a smaller model in its place leaves no shard behind
    write_folder(tmp_path / "x", config, F32, pieces, {}, overwrite=True)
    assert [file.name for file in (tmp_path / "x").glob("model*")] == ["model.safetensors"]
    assert_holds(tmp_path / "x", arrays)


def test_shards_are_cut_before_they_are_too_large() -> None:
    tensors = [Tensor(str(n), "U8", (n,)) for n in (4, 6, 1, 20, 3)]
    assert [[tensor.shape[0] for tensor in shard] for shard in cut(tensors, 10)] == [[4, 6], [1], [20], [3]]


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))

    def must_not_run(name: str) -> NDArray[np.float32]:
        pytest.fail(f"{name} is asked for")

    with pytest.raises(CheckpointError, match="bytes free on its disk, found 0"):
        write_huggingface(tmp_path / "x", config, must_not_run, F32)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way(tmp_path: Path, config: ModelConfig, arrays: Arrays) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="expected a new folder, found a file"):
        write_huggingface(tmp_path / "x", config, arrays.__getitem__, F32, overwrite=True)
    assert (tmp_path / "x").read_bytes() == b"mine"


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_a_tokenizer_goes_along(tmp_path: Path, version: str) -> None:
    model = find_mistral_common_tokenizer(version)
    source = replace(random_checkpoint(ModelConfig(
        dim=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=4, hidden_dim=8, vocab_size=32768, n_experts=2,
    )), tokenizer=model)  # fmt: skip
    export(source, tmp_path / "x", "huggingface")
    assert (tmp_path / "x" / "tokenizer.model").read_bytes() == model.read_bytes()
    settings = json.loads((tmp_path / "x" / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"], settings["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert "[INST]" in settings["chat_template"]
    ours, theirs = open_tokenizer(model), open_tokenizer(tmp_path / "x" / "tokenizer.json")
    for text in ("Hello  world", " naïve é 漢字 🙂\n\tx  ", "[INST] </s> in words", ""):
        assert theirs.encode(text) == ours.encode(text), text
    assert theirs.control_ids == ours.control_ids


def test_files_of_the_source_are_kept(tmp_path: Path) -> None:
    """A tokenizer_config.json that is there is copied; an own one would lose what it says."""
    export(random_checkpoint(tokenizer=False), tmp_path / "first", "huggingface")
    (tmp_path / "first" / "tokenizer_config.json").write_text('{"chat_template": "theirs"}')
    export(tmp_path / "first", tmp_path / "second", "huggingface", "f32")
    assert (tmp_path / "second" / "tokenizer_config.json").read_text() == '{"chat_template": "theirs"}'
    assert open_checkpoint(tmp_path / "second").get("embed").format == F32


def test_without_a_tokenizer(tmp_path: Path) -> None:
    export(random_checkpoint(tokenizer=False), tmp_path / "x", "huggingface")
    assert not list((tmp_path / "x").glob("tokenizer*"))
    assert open_checkpoint(tmp_path / "x").tokenizer is None
