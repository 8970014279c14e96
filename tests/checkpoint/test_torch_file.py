"""PyTorch's files: samples that it wrote, archives put together by hand, attacks, and files with bits turned over."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint.torch_mutations import mutate, open_and_read
from octuor.checkpoint.torch_file import TorchFile
from octuor.errors import CheckpointError
from octuor.quant.plain import from_bf16
from torch_files import number, pickled, sizes, storage, tensor, text, write_archive, write_torch

SAMPLES = Path(__file__).parent / "samples"
ZIP, LEGACY = SAMPLES / "torch_2_13.pt", SAMPLES / "torch_2_13_legacy.pt"
BOTH = pytest.mark.parametrize("path", [ZIP, LEGACY], ids=["zip", "legacy"])
N_MUTATIONS = 100  # each; tests/robustness has thousands
FLOATS = storage("0", "FloatStorage", 6)


@BOTH
def test_every_dtype_and_view(path: Path) -> None:
    file = TorchFile(path)
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected: dict[str, NDArray[Any]] = {
        "f32": rows,
        "shared": rows,
        "tail": rows[2:],
        "columns": rows[:, 1:3],
        "transposed": rows.T,
        "parameter": np.array([1.5, -2], np.float32),
        "f16": np.array([[0.5], [65504]], np.float16),
        "f64": np.array([1e300]),
        "f8": np.array([0x38, 0xFE], np.uint8),
        "i64": np.array([-(2**62)]),
        "i32": np.array([7], np.int32),
        "i8": np.array([-128, 127], np.int8),
        "u8": np.array([0, 255], np.uint8),
        "bool": np.array([True, False]),
        "scalar": np.array(3, np.float32),
        "empty": np.zeros((0, 5), np.float32),
    }
    assert set(file.tensors) == {*expected, "bf16"}  # an entry that is no tensor is left out
    np.testing.assert_array_equal(from_bf16(file.get("bf16")), np.array([1, -2, 0.15625], np.float32))
    for name, array in expected.items():
        found = file.get(name)
        assert (found.dtype, found.shape) == (array.dtype, file.tensors[name].shape), name
        np.testing.assert_array_equal(found, array, err_msg=name)
        assert found.flags.owndata or not found.flags.writeable


def test_numbers_are_views_of_the_mapping() -> None:
    file = TorchFile(ZIP)
    for name in ("f32", "tail", "columns", "transposed"):
        assert np.shares_memory(file.get(name), file.file.bytes), name
    assert file.get("transposed").strides == (4, 24)
    assert file.get("tail").ctypes.data == file.get("f32").ctypes.data + 48


def test_archives_of_other_writers(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([[0x3F80]], np.uint16),
        "c": np.array([1, 2], np.float16),
    }
    file = TorchFile(write_torch(tmp_path / "x.pth", arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.get(name), array)
        assert np.shares_memory(file.get(name), file.file.bytes)


def test_numbers_at_odd_places_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled({"a": tensor(FLOATS, 0, (2, 3), (3, 1))}))
        archive.writestr("x/odd", b"1")
        archive.writestr("x/data/0", np.arange(6, dtype=np.float32).tobytes())
    file = TorchFile(path)
    found = file.get("a")
    assert file.tensors["a"].begin % 4 != 0
    assert found.flags.aligned
    np.testing.assert_array_equal(found, np.arange(6, dtype=np.float32).reshape(2, 3))


# ---- attacks -------------------------------------------------------------------------------------


class Attack:
    """What an attacker pickles: an object whose unpickling is a call."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def attacks(target: Path) -> dict[str, bytes]:
    """Pickles that make the file `target` when Python unpickles them, by how they go about it."""
    command = f"touch {target}"
    code = f"open({str(target)!r}, 'w').close()"
    system = b"cos\nsystem\n"
    return {
        "REDUCE": pickle.dumps(Attack(os.system, (command,)), 2),
        "protocol 0": pickle.dumps(Attack(os.system, (command,)), 0),
        "protocol 5": pickle.dumps(Attack(os.system, (command,)), 5),
        "eval": pickle.dumps(Attack(eval, (code,)), 2),
        "exec in a state dict": pickle.dumps({"weight": Attack(exec, (code,))}, 2),
        "import": b"\x80\x02cbuiltins\ngetattr\nc__builtin__\n__import__\n" + text("os") + b"\x85R" + text("system")
        + b"\x86R" + text(command) + b"\x85R.",
        "INST": b"(X" + len(command).to_bytes(4, "little") + command.encode() + b"ios\nsystem\n.",
        "OBJ": b"(" + b"csubprocess\nPopen\n](" + text("touch") + text(str(target)) + b"eo.",
        "memo": b"\x80\x02" + system + b"q\x000h\x00" + text(command) + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R.",
        "beside a tensor": b"\x80\x02}(" + text("a") + system + text(command) + b"\x85Ru.",
        "BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("x") + system + text(command) + b"\x85Rsb.",
    }  # fmt: skip


ATTACKS = tuple(attacks(Path("x")))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_genuine(name: str, tmp_path: Path) -> None:
    made = pickle.loads(attacks(tmp_path / "made")[name])
    if hasattr(made, "wait"):
        made.wait()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_do_nothing(name: str, is_zip: bool, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "x.pt"
    data = attacks(made)[name]
    if is_zip:
        write_archive(path, {"data.pkl": data})
    else:
        path.write_bytes(data)
    with pytest.raises(CheckpointError):
        TorchFile(path)
    legacy = LEGACY.read_bytes()
    path.write_bytes(legacy[:137] + data)  # where the tensors would begin
    with pytest.raises(CheckpointError):
        TorchFile(path)
    assert not made.exists()


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (tensor(FLOATS, 0, (7,), (1,)), "within their storages of 6"),
        (tensor(FLOATS, 6, (1,), (1,)), "within their storages of 6"),
        (tensor(FLOATS, 0, (2, 3), (3, 2)), "within their storages of 6"),
        (tensor(FLOATS, 0, (2,), (-1,)), "a tensor with a storage, offset, shape and strides"),
        (tensor(FLOATS, -1, (2,), (1,)), "a tensor with a storage, offset, shape and strides"),
        (tensor(FLOATS, 0, (1 << 40, 1 << 40), (0, 0)), "within their storages of 6"),  # a terabyte of one number
        (tensor(FLOATS, 0, (0, 1 << 62), (1, 1)), "within their storages of 6"),
        (tensor(FLOATS, 0, (1,) * 9, (1,) * 9), "at most 8 dimensions"),
        (tensor(FLOATS, 0, (2, 3), (1,)), "a stride for each"),
        (tensor(b"N", 0, (2,), (1,)), "a tensor with a storage"),
        (tensor(storage("0", "FloatStorage", 7), 0, (6,), (1,)), r"28 bytes in x/data/0, found 24"),
        (tensor(storage("1", "FloatStorage", 6), 0, (6,), (1,)), "24 bytes in x/data/1, found none"),
        (tensor(storage("../0", "FloatStorage", 6), 0, (6,), (1,)), "found none"),
        (tensor(storage("0", "QInt8Storage", 24), 0, (6,), (1,)), "found torch QInt8Storage"),
        (tensor(storage("0", "FloatStorage", -1), 0, (0,), (1,)), "one description of the storage"),
        (number(5), "found a dict of other things"),
        (b"ctorch\nload\n" + text("x") + b"\x85R", "a call of torch load"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n" + sizes((1, 2)) + b"R", "_rebuild_tensor_v2 with 2 arguments"),
        (text("no storage") + b"Q", "a reference to a storage"),
    ],
)  # fmt: skip
def test_impossible_tensors_are_named(entry: bytes, message: str, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x.pt", {"data.pkl": pickled({"a": entry}), "data/0": bytes(24)})
    with pytest.raises(CheckpointError, match=message):
        TorchFile(path)


def test_one_storage_has_one_description(tmp_path: Path) -> None:
    entries = {"a": tensor(FLOATS, 0, (6,), (1,)), "b": tensor(storage("0", "HalfStorage", 12), 0, (12,), (1,))}
    path = write_archive(tmp_path / "x.pt", {"data.pkl": pickled(entries), "data/0": bytes(24)})
    with pytest.raises(CheckpointError, match="one description of the storage 0, found another"):
        TorchFile(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"version": b"3"}, "found 0 of them"),
        ({"code/x.py": b"", "constants.pkl": b""}, "found a TorchScript program"),
        ({"data.pkl": b"N.", "y/data.pkl": b"N."}, "found 2 of them"),
        ({"data.pkl": b"\x80\x02].", "byteorder": b"big"}, "little-endian"),
        ({"data.pkl": b"\x80\x02]."}, "found a list"),
        ({"data.pkl": b"\x80\x02}."}, "found a dict of other things"),
    ],
)
def test_other_archives(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        TorchFile(write_archive(tmp_path / "x.pt", members))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"not a file of PyTorch's", "another kind of file"),
        (pickle.dumps({"a": 1}, 2), "a pickle of something else"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1000, 2) + pickle.dumps({}, 2), "version 1001"),
    ],
)
def test_other_files(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        TorchFile(path)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = write_archive(
        tmp_path / "x.pt", {"data.pkl": pickled({"a": tensor(FLOATS, 0, (6,), (1,))}), "data/0": bytes(24)},
        compression=zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="compressed; save it again"):
        TorchFile(path)


@BOTH
def test_files_cut_short_are_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for length in range(1, len(data), 97):
        (tmp_path / "x.pt").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            TorchFile(tmp_path / "x.pt")


@BOTH
def test_mutations_are_read_or_refused(path: Path, tmp_path: Path) -> None:
    data, rng = path.read_bytes(), random.Random(5)
    for _ in range(N_MUTATIONS):
        open_and_read(mutate(data, rng), tmp_path / "x.pt")
