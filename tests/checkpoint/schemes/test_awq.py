"""AWQ folders, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint.schemes.checks import WQ, assert_reads, refusal
from octuor.quant.awq import Awq
from packed import awq

SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize("dtype", ["float16", "bf16"])
def test_numbers(quantized: Any, tmp_path: Path, dtype: str) -> None:
    weights = assert_reads(quantized(SETTINGS, lambda shape: awq(shape, 8, dtype=dtype)), tmp_path / "model")
    assert weights["layers.1.experts.2.down"].format == Awq(8)


def test_one_group(quantized: Any, tmp_path: Path) -> None:
    assert_reads(quantized(SETTINGS | {"group_size": -1}, lambda shape: awq(shape, shape[1])), tmp_path / "model")


def test_older_settings_in_a_file_of_their_own(quantized: Any, tmp_path: Path) -> None:
    folder = quantized({}, lambda shape: awq(shape, 8))
    del folder.settings["quantization_config"]
    path = tmp_path / "model"
    path.mkdir()
    settings = {"zero_point": True, "q_group_size": 8, "w_bit": 4, "version": "GEMM"}
    (path / "quant_config.json").write_text(json.dumps(settings))
    assert_reads(folder, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 3}, "expected bits 4, found '3'"),
        ({"version": "gemv"}, "expected version gemm, found 'gemv'"),
        ({"version": "gemv_fast"}, "found 'gemv_fast'"),
        ({"group_size": "8"}, "expected group_size"),
        ({"group_size": 4}, f"{WQ}.qzeros: expected I32 [10, 6], file has I32 [5, 6] (model.safetensors)"),
    ],
)
def test_settings_that_cannot_be_read(quantized: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = quantized(SETTINGS | change, lambda shape: awq(shape, 8))
    assert message in refusal(folder, tmp_path / "model")


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_missing_parts_are_named(quantized: Any, tmp_path: Path, part: str) -> None:
    folder = quantized(SETTINGS, lambda shape: awq(shape, 8))
    del folder.tensors[f"{WQ}.{part}"]
    assert f"expected a tensor {WQ}.{part}, found none" in refusal(folder, tmp_path / "model")
