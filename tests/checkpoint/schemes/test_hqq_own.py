"""hqq's own folders, qmodel.pt: dicts of modules, settings as plain values, zeros and scales quantized or stacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.torch_file import TorchFile
from octuor.errors import CheckpointError
from torch_files import number, pickled, sizes, storage, tensor, text, write_archive

KINDS = {"uint8": "ByteStorage", "float16": "HalfStorage", "float32": "FloatStorage"}
WQ = "model.layers.0.self_attn.q_proj"
SHAPE, GROUP = (48, 40), 8  # of wq in the toy
N_GROUPS = 48 * 40 // 8
Nested = dict[str, Any]


def write_nested(path: Path, entries: Nested) -> Path:
    """A file of torch.save: dicts in dicts of tensors, numbers, text, sizes (tuples) and dtypes ("torch.float16")."""
    members: dict[str, bytes] = {}

    def push(value: Any) -> bytes:
        match value:
            case dict():
                return b"}(" + b"".join(text(name) + push(inner) for name, inner in value.items()) + b"u"
            case np.ndarray():
                key = str(len(members))
                members[f"data/{key}"] = np.ascontiguousarray(value).tobytes()
                strides = tuple(stride // value.itemsize for stride in np.empty(value.shape, value.dtype).strides)
                return tensor(storage(key, KINDS[value.dtype.name], value.size), 0, value.shape, strides)
            case bool() | None:
                return {True: b"\x88", False: b"\x89", None: b"N"}[value]
            case int():
                return number(value)
            case tuple():
                return b"ctorch\nSize\n" + sizes(value) + b"\x85R"
            case str() if value.startswith("torch."):
                return f"ctorch\n{value.removeprefix('torch.')}\n".encode()
        return text(value)

    pickle = pickled({name: push(value) for name, value in entries.items()})
    return write_archive(path, {"data.pkl": pickle, "byteorder": b"little", **members})


def settings_of(bits: int, shape: tuple[int, int], group: int | None, axis: int) -> Nested:
    packing = {8: "8bit_u8", 4: "4bit_u8"}[bits]
    return {
        "nbits": bits, "group_size": group, "shape": shape, "axis": axis, "packing": packing,
        "view_as_float": False, "compute_dtype": "torch.float16",
    }  # fmt: skip


def older_module() -> tuple[Nested, NDArray[np.float32]]:
    """wq as hqq 0.1.8 saves it, zeros in one group of all, scales in groups of 8; and what its numbers are."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (N_GROUPS, GROUP)).astype(np.uint8)
    zero_q = rng.integers(0, 256, (N_GROUPS, 1)).astype(np.uint8)
    scale_q = rng.integers(0, 256, (8, N_GROUPS // 8)).astype(np.uint8)
    one = {"zero": np.array(2, np.float16), "scale": np.array(0.06, np.float16)}
    many = {name: rng.uniform(0.001, 0.01, (1, N_GROUPS // 8)).astype(np.float16) for name in ("zero", "scale")}
    meta = settings_of(4, SHAPE, GROUP, 1) | {"quant_zero": True, "quant_scale": True}
    meta |= {"zero_q": zero_q, "meta_zero": settings_of(8, (N_GROUPS, 1), None, 0) | one}
    meta |= {"scale_q": scale_q, "meta_scale": settings_of(8, (N_GROUPS, 1), 8, 0) | many}
    zero = (zero_q.astype(np.float16) - one["zero"]) * one["scale"]
    scale = ((scale_q.astype(np.float16) - many["zero"]) * many["scale"]).reshape(N_GROUPS, 1)
    numbers = ((codes.astype(np.float16) - zero) * scale).astype(np.float32).reshape(SHAPE)
    high, low = np.split(codes, 2)
    return {"W_q": high << 4 | low, "meta": meta, "bias": None}, numbers


@pytest.fixture
def plain(tensors: Any, settings: Nested, tmp_path: Path) -> Nested:
    """The toy as dicts of modules, and its config.json in the folder."""
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return {name.removesuffix(".weight"): {"weight": x} for name, x in tensors.items()}


def test_older_modules_hold_quantized_zeros_and_scales(plain: Nested, tmp_path: Path) -> None:
    module, numbers = older_module()
    write_nested(tmp_path / "qmodel.pt", plain | {WQ: module})
    checkpoint = open_checkpoint(tmp_path)
    assert np.array_equal(checkpoint.get("layers.0.wq").to_f32(), numbers)
    assert np.array_equal(checkpoint.get("layers.1.wq").to_f32(), plain[WQ.replace("0", "1")]["weight"])


def test_zeros_and_scales_may_be_stacked(plain: Nested, tmp_path: Path) -> None:
    module, _ = older_module()
    rng = np.random.default_rng(1)
    both = rng.uniform(0.5, 2, (2, N_GROUPS, 1)).astype(np.float16)
    module["meta"] = settings_of(4, SHAPE, GROUP, 1) | {"quant_zero": False, "quant_scale": False, "zero_scale": both}
    write_nested(tmp_path / "qmodel.pt", plain | {WQ: module})
    codes = np.concatenate([module["W_q"] >> 4, module["W_q"] & 15]).astype(np.float16)
    expected = ((codes - both[0]) * both[1]).astype(np.float32).reshape(SHAPE)
    assert np.array_equal(open_checkpoint(tmp_path).get("layers.0.wq").to_f32(), expected)


def test_newer_modules_hold_their_settings_themselves(plain: Nested, tmp_path: Path) -> None:
    module, _ = older_module()
    zero, scale = np.full((2, N_GROUPS, 1), 3, np.float16) / np.float16(2)
    flat = settings_of(4, SHAPE, GROUP, 1) | {"quant_zero": False, "quant_scale": False, "zero": zero, "scale": scale}
    write_nested(tmp_path / "qmodel.pt", plain | {WQ: {"W_q": module["W_q"]} | flat})
    codes = np.concatenate([module["W_q"] >> 4, module["W_q"] & 15]).astype(np.float32)
    expected = ((codes - 1.5) * 1.5).reshape(SHAPE)
    assert np.array_equal(open_checkpoint(tmp_path).get("layers.0.wq").to_f32(), expected)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("meta", "nbits", "4", "nbits among 8, 6, 5, 4, 3, 2, 1.58, 1, found '4'"),
        ("meta", "shape", (48,), "a shape of two lengths"),
        ("meta", "group_size", True, "a group_size of at least 1"),
        ("meta_zero", "shape", (N_GROUPS, 2), "zero"),
        ("meta_zero", "nbits", 7, "nbits among"),
        ("meta_scale", "axis", 1, "scale"),
        ("meta", "zero_q", np.zeros((3, 1), np.uint8), "zero: expected uint8"),
        ("meta", "zero_q", None, "expected a tensor .*zero_q"),
    ],
)
def test_wrong_modules_are_refused(
    plain: Nested, tmp_path: Path, part: str, field: str, value: Any, message: str
) -> None:
    module, _ = older_module()
    changed = module["meta"] if part == "meta" else module["meta"][part]
    changed[field] = value
    write_nested(tmp_path / "qmodel.pt", plain | {WQ: module})
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_names_of_dicts_in_dicts_are_joined(tmp_path: Path) -> None:
    file = TorchFile(
        write_nested(tmp_path / "a.pt", {"a": {"b": np.zeros(2, np.float16), "c": {"d": (1, 2), "e": None}}})
    )
    assert set(file.tensors) == {"a.b"}
    assert file.values == {"a.c.d": (1, 2), "a.c.e": None}


def test_a_name_may_be_there_once(tmp_path: Path) -> None:
    twice = {"a": {"b": np.zeros(2, np.float16)}, "a.b": np.ones(2, np.float16)}
    with pytest.raises(CheckpointError, match=r"one entry a\.b, found two"):
        TorchFile(write_nested(tmp_path / "a.pt", twice))


def test_dicts_that_hold_one_another_many_times_are_refused(tmp_path: Path) -> None:
    inner = b"}" + b"".join(text(f"n{n}") + b"N" + b"s" for n in range(200))
    for _ in range(3):  # each holds the one before 200 times over, by its place in the memo
        inner = inner + b"q\x01" + b"}" + b"".join(text(f"n{n}") + b"h\x01" + b"s" for n in range(200))
    pickle = b"\x80\x02}" + text("a") + inner + b"s."
    path = write_archive(tmp_path / "a.pt", {"data.pkl": pickle, "byteorder": b"little"})
    with pytest.raises(CheckpointError):
        TorchFile(path)
