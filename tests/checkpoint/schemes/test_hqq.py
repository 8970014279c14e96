"""HQQ's tensors as its own program saved them, and what is said of those that are wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint.safetensors_file import SafetensorsFile
from octuor.checkpoint.schemes.hqq import open_hqq
from octuor.errors import CheckpointError
from octuor.weights import Weight
from tensor_files import read_arrays, store_of

GOLDEN = Path(__file__).parent / "golden" / "hqq.safetensors"
CASES = sorted(name.removesuffix(".sha256") for name in SafetensorsFile(GOLDEN).tensors if name.endswith(".sha256"))
Module = dict[str, NDArray[Any]]


def find(tmp_path: Path, module: Module, shape: tuple[int, ...]) -> Weight | None:
    """A module through a file and the scheme."""
    tensors = {f"model.w.{name}": x for name, x in module.items()}
    return open_hqq({}, store_of(tmp_path / "model.safetensors", tensors))("model.w", shape, "w")


def numbers_of(tmp_path: Path, module: Module, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A quantized module's numbers."""
    weight = find(tmp_path, module, shape)
    assert weight is not None
    return weight.to_f32()


@pytest.mark.parametrize("case", CASES)
def test_weights_are_what_hqq_reads(case: str, tmp_path: Path) -> None:
    module = read_arrays(GOLDEN, case)
    expected = module.pop("sha256").tobytes()
    shape = tuple(module["shape"].tolist())
    numbers = numbers_of(tmp_path, module, shape)
    assert numbers.shape == shape
    assert hashlib.sha256(numbers.tobytes()).digest() == expected


def test_plain_modules_are_left_to_the_reader(tmp_path: Path) -> None:
    assert find(tmp_path, {"weight": np.ones((6, 64), np.float16)}, (6, 64)) is None
    assert find(tmp_path, {"weight": np.ones(64, np.float16)}, (64,)) is None


def text(value: str) -> NDArray[np.uint8]:
    return np.frombuffer(value.encode(), np.uint8)


WRONG: dict[str, tuple[dict[str, NDArray[Any] | None], str]] = {
    "unknown bits": ({"nbits": np.array(7, np.int32)}, "nbits among 8, 6, 5, 4, 3, 2, 1.58, 1, found '7'"),
    "bits without end": ({"nbits": np.array(np.inf, np.float32)}, "nbits among"),
    "bits that are no number": ({"nbits": np.array(np.nan, np.float32)}, "nbits among"),
    "bits that are not packed so": ({"nbits": np.array(2, np.int32)}, "packing 2bit_u8, found '4bit_u8'"),
    "a packing": ({"packing": text("4bit_u9")}, "packing 4bit_u8"),
    "a packing that is no text": ({"packing": np.full(1 << 16, 255, np.uint8)}, "packing 4bit_u8"),
    "an axis": ({"axis": np.array(2, np.int32)}, "axis 0 or 1, found '2'"),
    "an axis below": ({"axis": np.array(-1, np.int32)}, "axis 0 or 1"),
    "the other axis": ({"axis": np.array(0, np.int32)}, r"expected uint8 \[4, 12\]"),
    "groups of nothing": ({"group_size": np.array(0, np.int32)}, "group_size of at least 1"),
    "groups that leave a rest": ({"group_size": np.array(7, np.int32)}, r"groups of 7 in \[6, 16\], found a rest"),
    "other groups": ({"group_size": np.array(16, np.int32)}, r"expected uint8 \[3, 16\]"),
    "no groups": ({"group_size": None}, r"expected uint8 \[3, 16\]"),
    "another shape": ({"shape": np.array([16, 6])}, r"rows of \[16, 6\], found \[6, 16\]"),
    "lengths below zero": ({"shape": np.array([-6, -16])}, "a shape of two lengths"),
    "huge lengths": ({"shape": np.array([1 << 62, 4])}, "a shape of two lengths"),
    "three lengths": ({"shape": np.array([1, 6, 16])}, r"expected I64 \[2\]"),
    "a dtype": ({"compute_dtype": text("torch.float64")}, "compute_dtype among torch.float32"),
    "no scale": ({"scale": None}, "expected a tensor model.w.scale, found none"),
    "scales of another shape": ({"scale": np.ones((12, 2), np.float16)}, r"scale as f32, f16 or bf16 \[12, 1\]"),
    "zeros in whole numbers": ({"zero": np.ones((12, 1), np.int32)}, "zero as f32, f16 or bf16"),
    "no shape": ({"shape": None}, "expected a tensor model.w.shape"),
    "no packing": ({"packing": None}, "expected a tensor model.w.packing"),
    "codes of another shape": ({"W_q": np.zeros((6, 7), np.uint8)}, r"expected uint8 \[6, 8\], found uint8 \[6, 7\]"),
    "codes of another type": ({"W_q": np.zeros((6, 2), np.int64)}, r"expected uint8 \[6, 8\]"),
    "quantized zeros": ({"quant_zero": np.array(1, np.uint8)}, "quant_zero 0"),
    "a bias": ({"bias": np.ones(6, np.float16)}, "without biases"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_module_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = WRONG[case]
    module = read_arrays(GOLDEN, "4") | changes
    with pytest.raises(CheckpointError, match=message):
        numbers_of(tmp_path, {name: x for name, x in module.items() if x is not None}, (6, 16))


def test_numbers_that_are_none_are_read_as_they_are(tmp_path: Path) -> None:
    module = read_arrays(GOLDEN, "4-axis-0")
    module["scale"] = np.full_like(module["scale"], np.inf)
    numbers = numbers_of(tmp_path, module, (6, 16))
    assert not np.isfinite(numbers).any()
