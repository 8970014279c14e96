"""Mistral's own folders: every layout gives the same weights; which reader takes a folder; what is missing is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.batch import whole
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.base import contiguous
from octuor.checkpoint.mistral import halves_from_neighbours, neighbours_from_halves
from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ShapeError
from octuor.model import forward, logits
from octuor.ops.native import NativeOps
from octuor.ops.reference import ReferenceOps
from octuor.quant import F32
from octuor.tools.convert import convert
from octuor.weights import Weight, weight_shapes
from torch_files import write_torch

Arrays = dict[str, NDArray[np.float32]]
EXPERT = {"gate": "w1", "up": "w3", "down": "w2"}


def interleaved(x: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows in the order of RoPE over neighbours, spelled out: row 2i is i, row 2i + 1 is i + C / 2 of its head."""
    rows = []
    for head in range(len(x) // head_dim):
        for i in range(head_dim // 2):
            rows += [x[head * head_dim + i], x[head * head_dim + i + head_dim // 2]]
    return np.stack(rows)


@pytest.fixture
def theirs(config: ModelConfig, arrays: Arrays) -> Arrays:
    """The weights under the names and in the order that consolidated files have, one matrix an expert."""
    named = {
        "tok_embeddings.weight": arrays["embed"], "norm.weight": arrays["norm"], "output.weight": arrays["lm_head"],
    }  # fmt: skip
    for n in range(config.n_layers):
        at = f"layers.{n}."
        named[at + "attention_norm.weight"] = arrays[at + "attention_norm"]
        named[at + "ffn_norm.weight"] = arrays[at + "moe_norm"]
        for part in ("wq", "wk"):
            named[f"{at}attention.{part}.weight"] = interleaved(arrays[at + part], config.head_dim)
        for part in ("wv", "wo"):
            named[f"{at}attention.{part}.weight"] = arrays[at + part]
        named[at + "feed_forward.gate.weight"] = arrays[at + "router"]
        for e in range(config.n_experts):
            for ours, name in EXPERT.items():
                named[f"{at}feed_forward.experts.{e}.{name}.weight"] = arrays[f"{at}experts.{e}.{ours}"]
    return named


@pytest.fixture
def stacked(config: ModelConfig, arrays: Arrays, theirs: Arrays) -> Arrays:
    """The same as the first Mixtral repository had them: experts stacked on rows, w2 transposed one by one."""
    named = {
        name.replace("feed_forward.gate", "block_sparse_moe.gate"): x
        for name, x in theirs.items()
        if ".experts." not in name
    }
    for n in range(config.n_layers):
        for ours, name in EXPERT.items():
            experts = [arrays[f"layers.{n}.experts.{e}.{ours}"] for e in range(config.n_experts)]
            blocks = [x.T if ours == "down" else x for x in experts]
            named[f"layers.{n}.block_sparse_moe.{name}"] = np.concatenate(blocks)
    return named


@pytest.fixture
def params(config: ModelConfig) -> dict[str, Any]:
    return {
        "dim": config.dim, "n_layers": config.n_layers, "head_dim": config.head_dim, "hidden_dim": config.hidden_dim,
        "n_heads": config.n_heads, "n_kv_heads": config.n_kv_heads, "norm_eps": config.norm_eps, "max_seq_len": 512,
        "vocab_size": config.vocab_size, "moe": {"num_experts_per_tok": 2, "num_experts": config.n_experts},
    }  # fmt: skip


def write_st(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    tensors = [Tensor(name, "F32", x.shape) for name, x in arrays.items()]
    write_safetensors(path, tensors, lambda name: [arrays[name]], {})


def parts(arrays: Arrays, n: int) -> list[Arrays]:
    names = list(arrays)
    return [{name: arrays[name] for name in names[i::n]} for i in range(n)]


def write_layout(layout: str, path: Path, theirs: Arrays, stacked: Arrays) -> None:
    if layout == "consolidated.safetensors":
        write_st(path / layout, theirs)
    elif layout == "consolidated.00.pth":
        write_torch(path / layout, theirs)
    elif layout == "eight parts":
        for n, part in enumerate(parts(stacked, 8)):
            write_torch(path / f"consolidated.{n:02d}.pt", part)
    else:
        weight_map: dict[str, str] = {}
        for n, part in enumerate(parts(theirs, 3), start=1):
            name = f"consolidated-{n:05d}-of-00003.safetensors"
            write_st(path / name, part)
            weight_map |= dict.fromkeys(part, name)
        if layout == "shards and index":
            index = {"metadata": {}, "weight_map": weight_map}
            (path / "consolidated.safetensors.index.json").write_text(json.dumps(index))


LAYOUTS = ("consolidated.safetensors", "consolidated.00.pth", "eight parts", "shards", "shards and index")


def assert_holds(path: Path, arrays: Arrays) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "Mistral"
    assert set(checkpoint.names) == set(arrays)
    for name in checkpoint.names:
        np.testing.assert_array_equal(checkpoint.get(name).to_f32(), arrays[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    layout: str, tmp_path: Path, config: ModelConfig, arrays: Arrays, theirs: Arrays, stacked: Arrays,
    params: dict[str, Any],
) -> None:  # fmt: skip
    write_layout(layout, tmp_path, theirs, stacked)
    (tmp_path / "params.json").write_text(json.dumps(params))
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    assert_holds(tmp_path, arrays)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert checkpoint.tokenizer_bytes() == b"pieces"
    assert sum(file.bytes.size for file in checkpoint.files) > checkpoint.n_bytes
    for name in ("embed", "layers.1.wv", "layers.0.experts.2.gate"):
        assert not checkpoint.get(name).data.flags.owndata, name  # a view of the file


def test_transposed_experts_run(
    tmp_path: Path, config: ModelConfig, theirs: Arrays, stacked: Arrays, params: dict[str, Any]
) -> None:
    found = []
    for layout in ("consolidated.safetensors", "eight parts"):
        path = tmp_path / layout
        path.mkdir()
        write_layout(layout, path, theirs, stacked)
        (path / "params.json").write_text(json.dumps(params))
        for ops in (ReferenceOps(), NativeOps(threads=1)):
            weights = open_checkpoint(path).weights(ops.put)
            found.append(logits(ops, weights, forward(ops, weights, config, whole([[1, 2, 3]]))))
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


@pytest.mark.parametrize("format_name", ["f32", "bf16", "q8"])
def test_transposed_experts_are_converted(
    tmp_path: Path, theirs: Arrays, stacked: Arrays, params: dict[str, Any], format_name: str
) -> None:
    packs = []
    for layout in ("consolidated.safetensors", "eight parts"):
        path = tmp_path / layout
        path.mkdir()
        write_layout(layout, path, theirs, stacked)
        (path / "params.json").write_text(json.dumps(params))
        packs.append(convert(path, path / "x.octuor", format_name).path.read_bytes())
    assert packs[0] == packs[1]


def test_a_dense_model(tmp_path: Path, config: ModelConfig, params: dict[str, Any]) -> None:
    dense = replace(config, n_experts=1, n_experts_per_token=1)
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(dense)}
    named = {
        "tok_embeddings.weight": arrays["embed"], "norm.weight": arrays["norm"], "output.weight": arrays["lm_head"],
    }  # fmt: skip
    for n in range(dense.n_layers):
        at = f"layers.{n}."
        named[at + "attention_norm.weight"] = arrays[at + "attention_norm"]
        named[at + "ffn_norm.weight"] = arrays[at + "moe_norm"]
        for part in ("wq", "wk", "wv", "wo"):
            x = arrays[at + part]
            named[f"{at}attention.{part}.weight"] = interleaved(x, 12) if part in ("wq", "wk") else x
        for ours, name in EXPERT.items():
            named[f"{at}feed_forward.{name}.weight"] = arrays[f"{at}experts.0.{ours}"]
    write_st(tmp_path / "consolidated.safetensors", named)
    del params["moe"]
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert_holds(tmp_path, arrays)


def test_rows_change_places_and_back() -> None:
    x = np.arange(3 * 8 * 5, dtype=np.float32).reshape(24, 5)
    np.testing.assert_array_equal(neighbours_from_halves(x, 8), interleaved(x, 8))
    view = halves_from_neighbours(interleaved(x, 8), 8)
    assert view.base is not None
    weight = Weight(view, x.shape, F32)
    np.testing.assert_array_equal(weight.to_f32(), x)
    np.testing.assert_array_equal(weight.rows(5, 19).to_f32(), x[5:19])
    np.testing.assert_array_equal(contiguous(weight).data, x)
    with pytest.raises(ShapeError, match=r"expected float32 \[25, 5\], found float32 \[3, 2, 4, 5\]"):
        Weight(view, (25, 5), F32)


def test_what_is_unusual_is_noted(tmp_path: Path, theirs: Arrays, stacked: Arrays, params: dict[str, Any]) -> None:
    write_layout("eight parts", tmp_path, theirs, stacked)
    (tmp_path / "params.json").write_text(json.dumps(params))
    (tmp_path / "tekken.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tokenizer is None
    assert [note.partition(":")[0] for note in checkpoint.notes] == ["experts' w2 are transposed", "tekken.json"]


# ---- which reader --------------------------------------------------------------------------------


def test_hugging_face_files_come_first(folder: Any, arrays: Arrays, theirs: Arrays, params: dict[str, Any]) -> None:
    """A whole repository holds both; the shards beside config.json are those that are mapped without a copy."""
    path = folder()
    write_st(path / "consolidated.safetensors", theirs)
    (path / "params.json").write_text(json.dumps(params))
    assert open_checkpoint(path).kind == "Hugging Face"
    (path / "model.safetensors").unlink()
    assert_holds(path, arrays)


def test_config_json_describes_consolidated_files_too(folder: Any, arrays: Arrays, theirs: Arrays) -> None:
    path = folder()
    (path / "model.safetensors").rename(path / "elsewhere")
    write_st(path / "consolidated.safetensors", theirs)
    assert_holds(path, arrays)


def test_one_file_of_a_folder_names_the_folder(tmp_path: Path, theirs: Arrays, params: dict[str, Any]) -> None:
    write_torch(tmp_path / "consolidated.00.pth", theirs)
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(CheckpointError, match=f"name its folder, {tmp_path}"):
        open_checkpoint(tmp_path / "consolidated.00.pth")


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "missing"),
    [
        ("eight parts", "consolidated.03.pt"),
        ("shards", "consolidated-00002-of-00003.safetensors"),
        ("shards and index", "consolidated-00002-of-00003.safetensors"),
    ],
)
def test_missing_parts_are_named(
    layout: str, missing: str, tmp_path: Path, theirs: Arrays, stacked: Arrays, params: dict[str, Any]
) -> None:
    write_layout(layout, tmp_path, theirs, stacked)
    (tmp_path / "params.json").write_text(json.dumps(params))
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"1 are missing \({missing}\); download"):
        open_checkpoint(tmp_path)


def test_missing_weights_are_named(tmp_path: Path, theirs: Arrays, params: dict[str, Any]) -> None:
    del theirs["layers.1.feed_forward.experts.2.w2.weight"]
    write_st(tmp_path / "consolidated.safetensors", theirs)
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(CheckpointError, match=r"layers.1.experts.2.down: expected a tensor layers.1.feed_forward"):
        open_checkpoint(tmp_path)


def test_wrong_shapes_are_placed(tmp_path: Path, theirs: Arrays, params: dict[str, Any]) -> None:
    write_st(tmp_path / "consolidated.safetensors", theirs)
    (tmp_path / "params.json").write_text(json.dumps(params | {"hidden_dim": 73}))
    with pytest.raises(CheckpointError, match=r"gate: expected \[73, 40\], file has \[72, 40\] .*params.json"):
        open_checkpoint(tmp_path)


def test_a_model_of_a_billion_layers_ends_at_the_first_missing(
    tmp_path: Path, theirs: Arrays, params: dict[str, Any]
) -> None:
    write_st(tmp_path / "consolidated.safetensors", theirs)
    (tmp_path / "params.json").write_text(json.dumps(params | {"n_layers": 10**9}))
    with pytest.raises(CheckpointError, match=r"layers.2.attention_norm: expected a tensor"):
        open_checkpoint(tmp_path)
