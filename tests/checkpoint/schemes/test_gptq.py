"""GPTQ folders: today's, AutoGPTQ's, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint.schemes.checks import WQ, assert_reads, refusal
from octuor.quant.gptq import BITS, Gptq
from packed import gptq

SETTINGS = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": True}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("order", [False, True])
def test_bits_zeros_and_order(quantized: Any, tmp_path: Path, bits: int, layout: str, order: bool) -> None:
    offset = 1 if layout == "gptq" else 0
    scheme = SETTINGS | {"bits": bits, "checkpoint_format": layout, "desc_act": order}
    folder = quantized(scheme, lambda shape: gptq(shape, bits, 8, zero_offset=offset, order=order))
    weights = assert_reads(folder, tmp_path / "model")
    assert weights["layers.1.experts.2.down"].format == Gptq(bits, 8, offset)
    assert weights["layers.0.router"].format.name == weights["lm_head"].format.name == "f32"


def test_one_group(quantized: Any, tmp_path: Path) -> None:
    assert_reads(quantized(SETTINGS | {"group_size": -1}, lambda shape: gptq(shape, 4, shape[1])), tmp_path / "model")


def test_autogptq(quantized: Any, tmp_path: Path) -> None:
    """No checkpoint_format, settings in a file of their own, another file name, zeros as biases, no g_idx."""
    folder = quantized({}, lambda shape: gptq(shape, 4, 16))
    for module, values in folder.values.items():
        folder.tensors[f"{module}.bias"] = np.zeros(len(values), np.float16)
        del folder.tensors[f"{module}.g_idx"]
    del folder.settings["quantization_config"]
    path = tmp_path / "model"
    path.mkdir()
    (path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 16, "damp_percent": 0.1}))
    assert_reads(folder, path, file="gptq_model-4bit-16g.safetensors")


def test_modules_named_as_in_memory(quantized: Any, tmp_path: Path) -> None:
    """gptqmodel over transformers 5 saves the names of its modules."""
    folder = quantized(SETTINGS, lambda shape: gptq(shape, 4, 8))
    projections = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}

    def renamed(name: str) -> str:
        name = name.replace(".block_sparse_moe.", ".mlp.")
        return next((name.replace(f".{old}", f".{new}") for old, new in projections.items() if f".{old}" in name), name)

    for mapping in (folder.tensors, folder.values):
        for name in list(mapping):
            mapping[renamed(name)] = mapping.pop(name)
    assert_reads(folder, tmp_path / "model")


def test_matrices_with_settings_of_their_own(quantized: Any, tmp_path: Path) -> None:
    """ "dynamic" of gptqmodel: other bits and groups for some modules, none for others."""
    own = {(48, 40): (8, 20), (24, 40): (2, 8)}
    scheme = SETTINGS | {"dynamic": {"+:.*q_proj": {"bits": 8, "group_size": 20}, "+:.*[kv]_proj": {"bits": 2}}}
    folder = quantized(scheme, lambda shape: gptq(shape, *own.get(shape, (4, 8))))
    weights = assert_reads(folder, tmp_path / "model")
    assert [weights[f"layers.0.{part}"].format.name for part in ("wq", "wk", "wo")] == ["gptq-8", "gptq-2", "gptq-4"]


def test_a_quantized_lm_head(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(SETTINGS | {"lm_head": True}, lambda shape: gptq(shape, 4, 8))
    stored = gptq((100, 40), 4, 8)
    del folder.tensors["lm_head.weight"]
    folder.tensors |= {f"lm_head.{part}": x for part, x in stored.tensors.items()}
    folder.values["lm_head"] = stored.values
    assert assert_reads(folder, tmp_path / "model")["lm_head"].format.name == "gptq-4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "expected bits 2 or 3 or 4 or 8, found '5'"),
        ({"bits": "4"}, "expected bits 2 or 3 or 4 or 8"),
        ({"bits": True}, "expected bits"),
        ({"bits": None}, "expected bits .* found 'None'"),
        ({"group_size": 0}, "expected group_size -1 or a positive number, found '0'"),
        ({"group_size": 1.5}, "expected group_size"),
        ({"group_size": 16}, r"qzeros: expected I32 \[3, 6\], file has I32 \[5, 6\]"),
        ({"checkpoint_format": "marlin"}, "expected checkpoint_format gptq or gptq_v2, found 'marlin'"),
        ({"checkpoint_format": "gptq_p"}, "found 'gptq_p'"),
        ({"checkpoint_format": []}, "expected checkpoint_format"),
        ({"is_marlin_format": True}, "found 'marlin'"),
        ({"pack_dtype": "int16"}, "expected pack_dtype int32, found 'int16'"),
        ({"rotation": "hadamard"}, "expected rotation none, found 'hadamard'"),
    ],
)
def test_settings_that_cannot_be_read(quantized: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = quantized(SETTINGS | change, lambda shape: gptq(shape, 4, 8))
    assert re.search(message, refusal(folder, tmp_path / "model"))


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_missing_parts_are_named(quantized: Any, tmp_path: Path, part: str) -> None:
    folder = quantized(SETTINGS, lambda shape: gptq(shape, 4, 8))
    del folder.tensors[f"{WQ}.{part}"]
    assert f"expected a tensor {WQ}.{part}, found none" in refusal(folder, tmp_path / "model")


def test_a_bias_is_refused(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(SETTINGS, lambda shape: gptq(shape, 4, 8))
    folder.tensors[f"{WQ}.bias"] = np.full(48, 0.5, np.float16)
    assert f"{WQ}.bias: expected none or zeros" in refusal(folder, tmp_path / "model")


def test_a_group_that_is_not_there_is_refused_where_it_is_read(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(SETTINGS, lambda shape: gptq(shape, 4, 8))
    folder.tensors[f"{WQ}.g_idx"][3] = 99
    assert "g_idx: expected groups from 0 to 4, found 0 to 99" in refusal(folder, tmp_path / "model")


@pytest.mark.parametrize("text", ["", "[", "{" * 20000])
def test_a_damaged_settings_file_is_named(quantized: Any, tmp_path: Path, text: str) -> None:
    folder = quantized({}, lambda shape: gptq(shape, 4, 8))
    del folder.settings["quantization_config"]
    path = folder.write(tmp_path / "model")
    (path / "quantize_config.json").write_text(text)
    assert "quantize_config.json: expected JSON settings" in refusal(folder, path)
