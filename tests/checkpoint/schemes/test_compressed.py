"""compressed-tensors folders: packed integers, bytes, float8, several groups, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint.schemes.checks import WQ, assert_reads, refusal
from packed import Stored, as_scales, compressed, float8, times


def scheme(layout: str = "pack-quantized", **weights: Any) -> dict[str, Any]:
    fields = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 8} | weights
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "ignore": ["lm_head", "re:.*gate$"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": fields, "input_activations": None}},
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "kv_cache_scheme": None,
    }


def int8(shape: tuple[int, int], *, grid: str = "channel", symmetric: bool = True) -> Stored:
    rng = np.random.default_rng(shape)
    codes = rng.integers(-128, 128, shape, np.int8)
    of_scale = (shape[0], 1) if grid == "channel" else (1,)
    scale = as_scales(rng.uniform(0.01, 0.1, of_scale), "bf16")
    tensors: dict[str, Any] = {"weight": codes, "weight_scale": scale}
    zeros = np.zeros(of_scale, np.int8)
    if not symmetric:
        zeros = tensors["weight_zero_point"] = rng.integers(-128, 128, of_scale, np.int8)
    return Stored(tensors, times(codes.astype(int) - zeros, np.broadcast_to(scale, shape)))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("order", [False, True])
def test_packed(quantized: Any, tmp_path: Path, bits: int, symmetric: bool, order: bool) -> None:
    settings = scheme(num_bits=bits, symmetric=symmetric, actorder="group" if order else None)
    folder = quantized(settings, lambda shape: compressed(shape, bits, 8, symmetric=symmetric, order=order))
    assert assert_reads(folder, tmp_path / "model")["layers.0.wq"].format.name == f"int{bits}-packed"


def test_a_scale_a_channel(quantized: Any, tmp_path: Path) -> None:
    settings = scheme(num_bits=8, strategy="channel", group_size=None)
    assert_reads(quantized(settings, lambda shape: compressed(shape, 8, shape[1])), tmp_path / "model")


@pytest.mark.parametrize("layout", ["int-quantized", "naive-quantized"])
@pytest.mark.parametrize("grid", ["channel", "tensor"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_bytes(quantized: Any, tmp_path: Path, layout: str, grid: str, symmetric: bool) -> None:
    settings = scheme(layout, num_bits=8, strategy=grid, group_size=None, symmetric=symmetric)
    folder = quantized(settings, lambda shape: int8(shape, grid=grid, symmetric=symmetric))
    assert assert_reads(folder, tmp_path / "model")["layers.0.wq"].format.name == "int8"


@pytest.mark.parametrize("layout", ["float-quantized", "naive-quantized"])
def test_float8(quantized: Any, tmp_path: Path, layout: str) -> None:
    settings = scheme(layout, num_bits=8, type="float", strategy="channel", group_size=None)
    folder = quantized(settings, lambda shape: float8(shape, (shape[0], 1), (1, shape[1])))
    folder.tensors[f"{WQ}.input_scale"] = np.ones(1, np.float32)
    assert assert_reads(folder, tmp_path / "model")["layers.0.wq"].format.name == "f8_e4m3"


def test_float8_in_blocks(quantized: Any, tmp_path: Path) -> None:
    settings = scheme("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[16, 32])
    folder = quantized(settings, lambda s: float8(s, (-(-s[0] // 16), -(-s[1] // 32)), (16, 32)))
    assert_reads(folder, tmp_path / "model")


def test_groups_of_several_kinds(quantized: Any, tmp_path: Path) -> None:
    """Attention in 8 bits a channel, experts in 4 bits by groups; which is which is told by shapes."""
    settings = scheme("mixed-precision")
    attention = {"num_bits": 8, "type": "int", "strategy": "channel"}
    settings["config_groups"]["group_1"] = {"targets": ["re:.*self_attn.*"], "weights": attention}
    experts = {(72, 40), (40, 72)}
    folder = quantized(settings, lambda s: compressed(s, 4, 8) if s in experts else compressed(s, 8, s[1]))
    weights = assert_reads(folder, tmp_path / "model")
    assert weights["layers.0.wq"].format.name == "int8-packed"
    assert weights["layers.0.experts.0.up"].format.name == "int4-packed"


def test_modules_named_by_llm_compressor(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(scheme(), lambda shape: compressed(shape, 4, 8))
    for mapping in (folder.tensors, folder.values):
        for name in list(mapping):
            new = name.replace(".w1", ".gate_proj").replace(".w2", ".down_proj").replace(".w3", ".up_proj")
            mapping[new] = mapping.pop(name)
    assert_reads(folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "nvfp4-pack-quantized"}, "expected format pack-quantized or"),
        ({"format": "marlin-24"}, "found 'marlin-24'"),
        ({"format": []}, "expected format"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "expected sparsity_config none"),
        ({"sparsity_config": "yes"}, "expected sparsity_config none"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "expected transform_config none"),
        ({"config_groups": {}}, "expected config_groups with groups by name"),
        ({"config_groups": [1]}, "expected config_groups with groups by name"),
        ({"config_groups": {"group_0": 1}}, "expected config_groups weights in each group"),
    ],
)
def test_settings_that_cannot_be_read(quantized: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = quantized(scheme() | change, lambda shape: compressed(shape, 4, 8))
    assert message in refusal(folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"num_bits": 9}, "expected weights int of 1 to 8 bits or float of 8, found 'int of 9 bits'"),
        ({"num_bits": 4, "type": "float"}, "found 'float of 4 bits'"),
        ({"num_bits": None}, "found 'int of None bits'"),
        ({"group_size": 0}, "expected group_size a positive number, found '0'"),
        ({"group_size": "8"}, "expected group_size"),
        ({"num_bits": 8}, "weight_packed: expected I32 [48, 10], file has I32 [48, 5]"),
        ({"group_size": 16}, "weight_scale: expected BF16 or F16 or F32 [48, 3], file has BF16 [48, 5]"),
        ({"block_structure": [0, 8]}, "expected block_structure two positive numbers"),
        ({"block_structure": 8}, "expected block_structure"),
    ],
)
def test_weights_that_cannot_be_read(quantized: Any, tmp_path: Path, weights: dict[str, Any], message: str) -> None:
    folder = quantized(scheme(**weights), lambda shape: compressed(shape, 4, 8))
    assert message in refusal(folder, tmp_path / "model")


@pytest.mark.parametrize("part", ["weight_packed", "weight_scale"])
def test_missing_parts_are_named(quantized: Any, tmp_path: Path, part: str) -> None:
    folder = quantized(scheme(), lambda shape: compressed(shape, 4, 8))
    del folder.tensors[f"{WQ}.{part}"]
    assert f"expected a tensor {WQ}.{part}, found none" in refusal(folder, tmp_path / "model")
