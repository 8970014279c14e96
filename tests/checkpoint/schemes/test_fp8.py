"""FP8 folders: one scale a matrix, a row, a block, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint.schemes.checks import WQ, assert_reads, refusal
from octuor.quant.fp8 import Fp8
from packed import Stored, float8, float8_blocks

BLOCKS = {"quant_method": "fp8", "weight_block_size": [16, 32], "activation_scheme": "dynamic"}


def test_blocks(quantized: Any, tmp_path: Path) -> None:
    assert assert_reads(quantized(BLOCKS, float8_blocks), tmp_path / "model")["layers.0.wq"].format == Fp8(16, 32)


@pytest.mark.parametrize("grid", [(), (1,), (1, 1)])
def test_one_scale_a_matrix(quantized: Any, tmp_path: Path, grid: tuple[int, ...]) -> None:
    scheme = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
    folder = quantized(scheme, lambda shape: float8(shape, grid, shape))
    for module in folder.values:
        folder.tensors[f"{module}.input_scale"] = np.ones((), np.float32)
    assert assert_reads(folder, tmp_path / "model")["layers.0.wq"].format == Fp8(0, 0)


@pytest.mark.parametrize("is_column", [False, True])
def test_one_scale_a_row(quantized: Any, tmp_path: Path, is_column: bool) -> None:
    scheme = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}

    def rows(shape: tuple[int, int]) -> Stored:
        return float8(shape, (shape[0], 1) if is_column else (shape[0],), (1, shape[1]))

    assert assert_reads(quantized(scheme, rows), tmp_path / "model")["layers.0.wq"].format == Fp8(1, 0)


def test_modelopt_in_a_file_of_its_own(quantized: Any, tmp_path: Path) -> None:
    folder = quantized({}, lambda shape: float8(shape, (), shape))
    del folder.settings["quantization_config"]
    path = tmp_path / "model"
    path.mkdir()
    settings = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (path / "hf_quant_config.json").write_text(json.dumps(settings))
    assert_reads(folder, path)


def test_not_a_number_is_itself(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(BLOCKS, float8_blocks)
    folder.tensors[f"{WQ}.weight"][3, 5] = 0xFF
    folder.values[WQ][3, 5] = np.nan
    assert_reads(folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_block_size": [16]}, "expected weight_block_size two positive numbers"),
        ({"weight_block_size": [16, 0]}, "expected weight_block_size two positive numbers"),
        ({"weight_block_size": "16"}, "expected weight_block_size two positive numbers"),
        ({"weight_block_size": [32, 32]}, "weight_scale_inv: expected F32 or BF16 or F16 [2, 2], file has F32 [3, 2]"),
        ({"weight_block_size": None}, "weight_scale_inv: expected F32 or BF16 or F16 [48, 1], file has F32 [3, 2]"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "expected quant_algo FP8, found 'NVFP4'"),
    ],
)
def test_settings_that_cannot_be_read(quantized: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert message in refusal(quantized(BLOCKS | change, float8_blocks), tmp_path / "model")


def test_a_missing_scale_is_named(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(BLOCKS, float8_blocks)
    del folder.tensors[f"{WQ}.weight_scale_inv"]
    message = refusal(folder, tmp_path / "model")
    assert f"{WQ}.weight_scale: expected a scale beside float8 weights, found none" in message
