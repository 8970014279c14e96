"""Hugging Face folders: every layout gives the same weights; what is missing or wrong is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.huggingface import open_huggingface
from octuor.config import ModelConfig
from octuor.errors import CheckpointError
from octuor.quant import BF16
from octuor.quant.plain import from_bf16, to_bf16

Arrays = dict[str, NDArray[np.float32]]


def assert_holds(path: Path, arrays: Arrays) -> None:
    checkpoint = open_huggingface(path)
    assert set(checkpoint.names) == set(arrays)
    for name in checkpoint.names:
        weight = checkpoint.get(name)
        assert weight.name == name
        np.testing.assert_array_equal(weight.to_f32(), arrays[name], err_msg=name)


def fused(config: ModelConfig, arrays: Arrays, tensors: Arrays) -> Arrays:
    """The toy's tensors as transformers 5 holds them in memory."""
    out = {name: x for name, x in tensors.items() if "block_sparse_moe" not in name}
    for n in range(config.n_layers):
        at, experts = f"model.layers.{n}.mlp.", f"layers.{n}.experts."
        each = range(config.n_experts)
        out[at + "gate.weight"] = arrays[f"layers.{n}.router"]
        out[at + "experts.gate_up_proj"] = np.stack(
            [np.concatenate([arrays[f"{experts}{e}.gate"], arrays[f"{experts}{e}.up"]]) for e in each]
        )
        out[at + "experts.down_proj"] = np.stack([arrays[f"{experts}{e}.down"] for e in each])
    return out


def test_one_file(folder: Any, arrays: Arrays, config: ModelConfig) -> None:
    path = folder()
    assert_holds(path, arrays)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.config, checkpoint.kind, checkpoint.source) == (config, "Hugging Face", path)
    assert checkpoint.tokenizer is None
    assert checkpoint.n_bytes == sum(x.nbytes for x in arrays.values())


def test_shards(folder: Any, arrays: Arrays) -> None:
    assert_holds(folder(shards=3), arrays)


def test_fused_experts(folder: Any, arrays: Arrays, tensors: Arrays, config: ModelConfig) -> None:
    path = folder(fused(config, arrays, tensors))
    assert_holds(path, arrays)
    down = open_huggingface(path).get("layers.0.experts.1.down")
    assert down.data.flags.c_contiguous
    assert not down.data.flags.owndata


def test_bfloat16_and_float16(folder: Any, arrays: Arrays, tensors: Arrays) -> None:
    path = folder({name: to_bf16(x) for name, x in tensors.items()}, dtype="BF16")
    assert_holds(path, {name: from_bf16(to_bf16(x)) for name, x in arrays.items()})
    assert open_huggingface(path).get("embed").format == BF16


def test_tied_embeddings(folder: Any, arrays: Arrays, tensors: Arrays) -> None:
    del tensors["lm_head.weight"]
    assert_holds(folder(tensors, tie_word_embeddings=True), arrays | {"lm_head": arrays["embed"]})


def test_tensors_that_are_not_ours_are_left_alone(folder: Any, arrays: Arrays, tensors: Arrays) -> None:
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(6, dtype=np.float32)}
    assert_holds(folder(tensors | old), arrays)


@pytest.mark.parametrize(
    ("files", "chosen", "kind"),
    [
        (["tokenizer.json", "tokenizer.model"], "tokenizer.model", "tokenizer.model"),
        (["tokenizer.model.v3"], "tokenizer.model.v3", "tokenizer.model"),
        (["tokenizer.json"], "tokenizer.json", "tokenizer.json"),
    ],
)
def test_tokenizer(folder: Any, files: list[str], chosen: str, kind: str) -> None:
    path = folder()
    for file in files:
        (path / file).write_bytes(file.encode())
    checkpoint = open_huggingface(path)
    assert (checkpoint.tokenizer, checkpoint.tokenizer_kind) == (path / chosen, kind)
    assert checkpoint.tokenizer_bytes() == chosen.encode()


def test_missing_shards_are_named(folder: Any) -> None:
    path = folder(shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected 3 shards, 1 are missing \(model-00002-of-00003.safetensors\)"):
        open_huggingface(path)


def test_a_truncated_shard_is_named(folder: Any) -> None:
    path = folder(shards=3)
    shard = path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors: expected .* download it again"):
        open_huggingface(path)


def test_a_missing_weight_is_named(folder: Any, tensors: Arrays) -> None:
    del tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    with pytest.raises(CheckpointError, match=r"layers.1.experts.2.up: expected a tensor model.layers.1.block_sparse"):
        open_huggingface(folder(tensors))


def test_a_missing_lm_head_is_an_error_unless_tied(folder: Any, tensors: Arrays) -> None:
    del tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"lm_head: expected a tensor lm_head.weight"):
        open_huggingface(folder(tensors))


def test_a_wrong_shape_is_placed(folder: Any, tensors: Arrays) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name][:24]
    with pytest.raises(
        CheckpointError, match=r"layers.1.wq: expected \[48, 40\], file has \[24, 40\] .*model.safetensors"
    ):
        open_huggingface(folder(tensors))


def test_other_dtypes_are_refused(folder: Any, tensors: Arrays) -> None:
    path = folder({name: x.astype(np.int8) for name, x in tensors.items()}, dtype="I8")
    with pytest.raises(CheckpointError, match=r"embed: expected F32, F16, BF16, file has I8"):
        open_huggingface(path)


def test_an_unknown_quantization_is_named(folder: Any) -> None:
    path = folder()
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "tarot"}}))
    with pytest.raises(CheckpointError, match="found 'tarot'; name the model's unquantized checkpoint"):
        open_huggingface(path)


def test_a_name_of_a_quantizer_s_own(folder: Any, arrays: Arrays) -> None:
    path = folder()
    (path / "model.safetensors").rename(path / "gptq_model-4bit-128g.safetensors")
    assert_holds(path, arrays)


def test_an_index_of_a_quantizer_s_own(folder: Any, arrays: Arrays) -> None:
    path = folder(shards=2)
    (path / "model.safetensors.index.json").rename(path / "gptq_model-4bit-128g.safetensors.index.json")
    assert_holds(path, arrays)


def test_a_folder_with_other_weights_only(folder: Any) -> None:
    path = folder()
    shutil.copy(path / "model.safetensors", path / "twin.safetensors")
    (path / "model.safetensors").rename(path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"found twin.safetensors, weights.safetensors"):
        open_huggingface(path)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}'])
def test_a_broken_index(folder: Any, text: str) -> None:
    path = folder(shards=2)
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="weight_map"):
        open_huggingface(path)
