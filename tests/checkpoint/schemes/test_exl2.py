"""EXL2's tensors, by our writer from the format's description, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exl2_writer import Exl2Matrix, quantize_exl2
from octuor.checkpoint.schemes.exl2 import open_exl2
from octuor.errors import CheckpointError
from octuor.weights import Weight
from tensor_files import store_of

SHAPE = (40, 128)


def matrix() -> Exl2Matrix:
    rng = np.random.default_rng(4)
    x = rng.standard_normal(SHAPE).astype(np.float32) * np.float32(0.02)
    return quantize_exl2(x, [(6, 32), (4, 32), (3, 64)], rng)


def find(tmp_path: Path, module: dict[str, NDArray[Any]], shape: tuple[int, ...] = SHAPE) -> Weight | None:
    """A module through a file and the scheme."""
    tensors = {f"model.w.{name}": x for name, x in module.items()}
    return open_exl2({}, store_of(tmp_path / "model.safetensors", tensors))("model.w", shape, "w")


def numbers_of(tmp_path: Path, module: dict[str, NDArray[Any]], shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    """A quantized module's numbers."""
    weight = find(tmp_path, module, shape)
    assert weight is not None
    return weight.to_f32()


def test_weights_are_those_that_were_written_without_their_padding(tmp_path: Path) -> None:
    written = matrix()
    assert written.tensors["q_weight"].shape[1] == 64
    assert np.array_equal(numbers_of(tmp_path, written.tensors), written.numbers)


def test_plain_modules_are_left_to_the_reader(tmp_path: Path) -> None:
    assert find(tmp_path, {"weight": np.ones(SHAPE, np.float16)}) is None
    assert find(tmp_path, {"weight": np.ones(64, np.float16)}, (64,)) is None


WRONG: dict[str, tuple[dict[str, NDArray[Any] | None], str]] = {
    "no q_groups": ({"q_groups": None}, "expected a tensor model.w.q_groups, found none"),
    "no q_invperm": ({"q_invperm": None}, "expected a tensor model.w.q_invperm"),
    "no q_weight": ({"q_weight": None}, "expected a tensor model.w.q_weight"),
    "no padding": ({"q_weight": np.zeros((16, 40), np.int32)}, r"expected I32 .*64"),
    "rows missing": ({"q_weight": np.zeros((15, 64), np.int32)}, "inputs in its groups, found 5 rows of 3 bits"),
    "rows too many": ({"q_weight": np.zeros((17, 64), np.int32)}, "inputs in its groups, found 7 rows of 3 bits"),
    "no rows": ({"q_weight": np.zeros((0, 64), np.int32)}, "one below the other in 0 rows"),
    "scales of fewer groups": ({"q_scale": np.zeros((2, 8), np.int32)}, r"expected I32 \[3, 8\]"),
    "unknown bits": ({"q_groups": np.array([7, 0, 4, 6, 3, 10], np.int16)}, "bits, found 7"),
    "bits below zero": ({"q_groups": np.array([-6, 0, 4, 6, 3, 10], np.int16)}, "bits, found 65530"),
    "groups in another order": ({"q_groups": np.array([6, 0, 4, 10, 3, 6], np.int16)}, "one below the other"),
    "groups beyond the rows": ({"q_groups": np.array([6, 0, 4, 6, 3, 99], np.int16)}, "one below the other"),
    "an input twice": ({"q_invperm": np.zeros(128, np.int32)}, "q_invperm to order 128 inputs, found 1 nowhere"),
    "an input beyond": ({"q_invperm": np.arange(128, dtype=np.int32) + 1}, "q_invperm to order 128 inputs, found 0"),
    "an input below": ({"q_invperm": np.arange(128, dtype=np.int32) - 1}, "q_invperm to order 128 inputs"),
    "inputs missing": ({"q_invperm": np.arange(64, dtype=np.int32)}, r"expected I32 \[128\]"),
    "a bias": ({"bias": np.ones(40, np.float16)}, "without biases"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_module_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = WRONG[case]
    module = matrix().tensors | changes
    with pytest.raises(CheckpointError, match=message):
        numbers_of(tmp_path, {name: x for name, x in module.items() if x is not None})


def test_numbers_that_are_none_are_read_as_they_are(tmp_path: Path) -> None:
    module = matrix().tensors
    module["q_scale_max"] = np.full_like(module["q_scale_max"], np.nan)
    numbers = numbers_of(tmp_path, module)
    assert np.isnan(numbers).all()
