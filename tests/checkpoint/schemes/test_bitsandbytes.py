"""bitsandbytes' tensors as its own program saved them, and what is said of those that are wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint.schemes.bitsandbytes import open_bitsandbytes
from octuor.errors import CheckpointError, OctuorError
from octuor.weights import Weight
from tensor_files import read_arrays, store_of

GOLDEN = Path(__file__).parent / "golden" / "bitsandbytes.safetensors"
SHAPES = {"nf4": (6, 64), "nf4-nested": (40, 256), "fp4-nested": (4, 256), "fp4": (5, 512), "int8": (6, 16)}
STATE = "weight.quant_state.bitsandbytes__nf4"
Module = dict[str, NDArray[Any]]


def find(tmp_path: Path, module: Module, shape: tuple[int, ...]) -> Weight | None:
    """A module through a file and the scheme."""
    tensors = {f"model.w.{name}": x for name, x in module.items()}
    return open_bitsandbytes({}, store_of(tmp_path / "model.safetensors", tensors))("model.w", shape, "w")


def numbers_of(tmp_path: Path, module: Module, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A quantized module's numbers."""
    weight = find(tmp_path, module, shape)
    assert weight is not None
    return weight.to_f32()


@pytest.mark.parametrize("case", SHAPES)
def test_weights_are_what_bitsandbytes_reads(case: str, tmp_path: Path) -> None:
    module = read_arrays(GOLDEN, case)
    expected = module.pop("sha256").tobytes()
    numbers = numbers_of(tmp_path, module, SHAPES[case])
    assert numbers.shape == SHAPES[case]
    assert hashlib.sha256(numbers.tobytes()).digest() == expected


def test_bytes_may_be_stored_as_another_type(tmp_path: Path) -> None:
    module = read_arrays(GOLDEN, "nf4")
    plain = numbers_of(tmp_path, module, SHAPES["nf4"])
    for dtype in (np.float32, np.float16, np.uint16):
        module["weight"] = read_arrays(GOLDEN, "nf4")["weight"].reshape(-1).view(dtype).reshape(-1, 1)
        assert np.array_equal(numbers_of(tmp_path, module, SHAPES["nf4"]), plain)


def test_plain_modules_are_left_to_the_reader(tmp_path: Path) -> None:
    assert find(tmp_path, {"weight": np.ones((6, 64), np.float16)}, (6, 64)) is None
    assert find(tmp_path, {"weight": np.ones(64, np.float16)}, (64,)) is None


def changed_state(**fields: Any) -> Callable[[Module], Module]:
    """Sets fields of the quant state, or takes away those that are None."""

    def change(module: Module) -> Module:
        state = json.loads(module[STATE].tobytes()) | fields
        text = json.dumps({key: value for key, value in state.items() if value is not None})
        return module | {STATE: np.frombuffer(text.encode(), np.uint8)}

    return change


def without(part: str) -> Callable[[Module], Module]:
    return lambda module: {name: x for name, x in module.items() if name != part}


def replaced(part: str, x: NDArray[Any]) -> Callable[[Module], Module]:
    return lambda module: module | {part: x}


WRONG = {
    "another shape": (changed_state(shape=[64, 6]), r"expected shape \[40, 256\], found '\[64, 6\]'"),
    "no shape": (changed_state(shape=None), "expected shape"),
    "shape of another kind": (changed_state(shape={"a": [1]}), "expected shape"),
    "another type": (changed_state(quant_type="fp4"), "quant_type 'nf4', found 'fp4'"),
    "a block of nothing": (changed_state(blocksize=0), "blocksize of 32 to 4096, found '0'"),
    "a huge block": (changed_state(blocksize=10**30), "blocksize of 32 to 4096"),
    "a block as text": (changed_state(blocksize="64"), "blocksize of 32 to 4096"),
    "a block of another size": (changed_state(blocksize=64), r"absmax: expected U8 \[160\], file has U8 \[320\]"),
    "an unknown dtype": (changed_state(dtype="float64"), "dtype among float32, float16, bfloat16"),
    "a dtype as list": (changed_state(dtype=["float32"]), "dtype among float32"),
    "no nested blocks": (changed_state(nested_blocksize=0), "nested_blocksize of 1 to 4096"),
    "no nested offset": (changed_state(nested_offset=None), "finite nested_offset, found 'None'"),
    "a nested offset that is no number": (changed_state(nested_offset=float("nan")), "finite nested_offset"),
    "a huge nested offset": (changed_state(nested_offset=10**400), "finite nested_offset"),
    "no JSON": (replaced(STATE, np.frombuffer(b"{]", np.uint8)), "expected JSON of at most 4096 bytes"),
    "deep JSON": (replaced(STATE, np.full(1 << 20, ord("["), np.uint8)), "expected JSON of at most 4096 bytes"),
    "JSON of another kind": (replaced(STATE, np.frombuffer(b"[1]", np.uint8)), "JSON object with quant_type"),
    "no quant state": (without(STATE), "expected its quant_state.bitsandbytes__nf4 or __fp4, found none"),
    "no absmax": (without("weight.absmax"), "expected a tensor model.w.weight.absmax, found none"),
    "no quant map": (without("weight.quant_map"), "expected a tensor model.w.weight.quant_map"),
    "a short quant map": (replaced("weight.quant_map", np.ones(8, np.float32)), r"expected F32 \[16\]"),
    "no nested absmax": (without("weight.nested_absmax"), "expected a tensor model.w.weight.nested_absmax"),
    "no weight": (without("weight"), "expected a tensor model.w.weight"),
    "too few bytes": (replaced("weight", np.zeros((5119, 1), np.uint8)), "expected 5120 bytes"),
    "a bias": (replaced("bias", np.ones(40, np.float16)), "without biases"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_module_is_refused(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    with pytest.raises(CheckpointError, match=message):
        numbers_of(tmp_path, change(read_arrays(GOLDEN, "nf4-nested")), SHAPES["nf4-nested"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("SCB"), "expected a tensor model.w.SCB"),
        (replaced("SCB", np.ones(5, np.float32)), r"expected F32 \[6\]"),
        (replaced("weight", np.zeros((6, 15), np.int8)), r"expected I8 \[6, 16\]"),
        (replaced("weight_format", np.array(2, np.uint8)), r"expected 0 \(rows\), found 2"),
    ],
)
def test_a_wrong_int8_module_is_refused(change: Callable[[Module], Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        numbers_of(tmp_path, change(read_arrays(GOLDEN, "int8")), SHAPES["int8"])


def test_numbers_that_are_none_are_read_as_they_are(tmp_path: Path) -> None:
    module = read_arrays(GOLDEN, "nf4")
    module["weight.absmax"] = np.full_like(module["weight.absmax"], np.nan)
    numbers = numbers_of(tmp_path, module, SHAPES["nf4"])
    assert np.isnan(numbers).all()


def test_changed_bytes_of_a_quant_state_are_refused_or_read(tmp_path: Path) -> None:
    golden = read_arrays(GOLDEN, "nf4-nested")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        state = golden[STATE].copy()
        state[rng.integers(len(state))] = rng.integers(256)
        try:
            numbers_of(tmp_path, golden | {STATE: state}, SHAPES["nf4-nested"])
        except OctuorError:
            refused += 1
    assert refused > 30
