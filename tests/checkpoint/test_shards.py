"""Several files as one: the index decides, parts must not overlap, and names stay in their folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.shards import open_index, open_parts, open_tensors
from octuor.checkpoint.tensors import Tensor
from octuor.checkpoint.torch_file import TorchFile
from octuor.errors import CheckpointError
from torch_files import write_torch

Arrays = Mapping[str, NDArray[np.float32]]
ONE = np.array([1], np.float32)
TWO = np.array([2], np.float32)


def write(path: Path, arrays: Arrays) -> None:
    if path.suffix == ".safetensors":
        tensors = [Tensor(name, "F32", x.shape) for name, x in arrays.items()]
        write_safetensors(path, tensors, lambda name: [arrays[name]], {})
    else:
        write_torch(path, arrays)


def write_index(folder: Path, weight_map: Mapping[str, object]) -> Path:
    path = folder / "model.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_index_says_whose_tensor_counts(tmp_path: Path, suffix: str) -> None:
    names = [f"a{suffix}", f"b{suffix}"]
    write(tmp_path / names[0], {"x": ONE, "y": ONE})
    write(tmp_path / names[1], {"x": TWO, "z": TWO})
    for owner, expected in zip(names, (ONE, TWO), strict=True):
        tensors = open_index(write_index(tmp_path, {"x": owner, "y": names[0], "z": names[1]}))
        assert tensors.get("x") == expected
        assert tensors.path("x").name == owner
        assert set(tensors) == {"x", "y", "z"}


def test_parts_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", {"x": ONE})
    write(tmp_path / "b.pt", {"y": TWO})
    tensors = open_parts(tmp_path, ["a.pt", "b.pt"])
    assert (tensors.get("x"), tensors.get("y")) == (ONE, TWO)
    assert isinstance(open_tensors(tmp_path / "a.pt"), TorchFile)


def test_parts_must_not_hold_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", {"x": ONE})
    write(tmp_path / "b.pt", {"x": TWO})
    with pytest.raises(CheckpointError, match=r"expected x in one file, found it in a.pt and b.pt"):
        open_parts(tmp_path, ["a.pt", "b.pt"])


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", {"x": ONE})
    with pytest.raises(CheckpointError, match=r"expected 2 shards, 1 are missing \(b.bin\)"):
        open_index(write_index(tmp_path, {"x": "a.bin", "y": "b.bin"}))


@pytest.mark.parametrize("name", ["../a.bin", "/etc/a.bin", "", ".", "a\0.bin", 5, None, ["a.bin"]])
def test_an_index_names_files_beside_it(tmp_path: Path, name: object) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "a.bin", {"x": ONE})
    with pytest.raises(CheckpointError, match="weight_map"):
        open_index(write_index(tmp_path / "in", {"x": name}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', "[" * 100_000])
def test_broken_indexes(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="weight_map"):
        open_index(tmp_path / "model.index.json")
