"""The container against the safetensors library, both ways, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from octuor.checkpoint import files
from octuor.checkpoint.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile, write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.errors import CheckpointError

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(5, dtype=np.int64)
EMPTY = np.zeros((0, 4), dtype=np.float16)
BITS = np.array([0x3F80, 0xC000], dtype=np.uint16)  # 1.0 and -2.0 in bfloat16
ARRAYS: dict[str, NDArray[Any]] = {"b": B, "bits": BITS, "a": A, "empty": EMPTY}
TENSORS = [Tensor("b", "I64", (5,)), Tensor("bits", "BF16", (2,)), Tensor("a", "F32", (3, 4)),
           Tensor("empty", "F16", (0, 4))]  # fmt: skip


def raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    n_bytes = write_safetensors(path, TENSORS, lambda name: [ARRAYS[name]], {"who": "us"}, data_multiple=4096)
    assert n_bytes == path.stat().st_size
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"who": "us"}
        assert file.get_slice("bits").get_dtype() == "BF16"
        for name in ("a", "b", "empty"):
            np.testing.assert_array_equal(file.get_tensor(name), ARRAYS[name])
    assert SafetensorsFile(path).data_start == 4096


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A, "b": B, "empty": EMPTY}, path, {"who": "them"})
    file = SafetensorsFile(path)
    assert file.metadata == {"who": "them"}
    for name in ("a", "b", "empty"):
        np.testing.assert_array_equal(file.get(name), ARRAYS[name])
        assert file.get(name).dtype == ARRAYS[name].dtype


def test_a_tensor_is_a_read_only_view(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, TENSORS, lambda name: [ARRAYS[name]], {})
    file = SafetensorsFile(path)
    found = file.get("bits")
    np.testing.assert_array_equal(found, BITS)
    assert np.shares_memory(file.get("a"), file.get("a"))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_tensors_are_written_in_pieces_and_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, TENSORS, lambda name: iter([ARRAYS[name][:1], ARRAYS[name][1:]]), {})
    file = SafetensorsFile(path)
    assert list(file.tensors) == ["b", "bits", "a", "empty"]
    np.testing.assert_array_equal(file.get("a"), A)


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_blocks_of_any_size_make_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Pieces smaller and larger than what is written at once, and ends that fall on a block's."""
    paths = [tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    for path in paths:
        write_safetensors(path, TENSORS, lambda name: [ARRAYS[name]], {}, data_multiple=64)
        monkeypatch.setattr(files, "BLOCK", block)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_strided_pieces_are_written_in_row_order(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, [Tensor("t", "F32", (4, 3))], lambda _: [A.T], {})
    np.testing.assert_array_equal(SafetensorsFile(path).get("t"), A.T)


def entry(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty one"),
        (b"abc", "expected a safetensors header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "expected a safetensors header"),
        ((500).to_bytes(8, "little") + b"{}", "expected a header of 500 bytes, found 2; download it again"),
        (raw(b"{nonsense"), "expected a JSON header"),
        (raw(b"\xff\xfe{}"), "expected a JSON header"),
        (raw([]), "expected a JSON object"),
        (raw({"a": {"dtype": "F32"}}), "expected dtype, shape and two data_offsets for a"),
        (raw({"a": 3}), "expected dtype, shape and two data_offsets for a"),
        (raw({"a": entry(0, 8, "Q7")}, bytes(8)), "found 'Q7'"),
        (raw({"a": entry(0, 12)}, bytes(12)), "expected 8 bytes for a"),
        (raw({"a": entry(0, 8, shape=(-2,))}, bytes(8)), "bytes for a"),
        (raw({"a": entry(8, 16)}, bytes(16)), "expected a to begin at byte 0"),
        (raw({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "expected b to begin at byte 8"),
        (raw({"a": entry(0, 8)}, bytes(9)), "found"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    n_bytes = write_safetensors(path, TENSORS, lambda name: [ARRAYS[name]], {})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=f"expected {n_bytes} bytes, found {n_bytes - 3}; download it again"):
        SafetensorsFile(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        SafetensorsFile(tmp_path / "x.safetensors")
