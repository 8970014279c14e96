"""Files are replaced whole or not at all, and mapped pages can be let go."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from octuor.checkpoint.files import drop_pages, in_row_order, map_file, replacing, replacing_folder
from octuor.errors import CheckpointError

Usage = namedtuple("Usage", "total used free")


def refused(path: Path, n_bytes: int, message: str) -> None:
    """Nothing may be written: the block of `replacing` must not run."""
    with pytest.raises(CheckpointError, match=message), replacing(path, n_bytes, overwrite=False):
        pytest.fail("the block must not run")


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with replacing(path, 3, overwrite=False) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path, 3, overwrite=True) as file:
            file.write(b"a")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    refused(path, 3, "expected a new file, found a file of that name")
    with replacing(path, 3, overwrite=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    refused(tmp_path, 3, "found a folder; name a file in it")


def test_a_disk_without_room_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 93, 7))
    refused(tmp_path / "x", 10, "expected 10 bytes free on its disk, found 7; free 3 bytes")
    assert not list(tmp_path.iterdir())


def test_a_leftover_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.partial").write_bytes(b"half a file")
    with replacing(tmp_path / "x", 3, overwrite=False) as file:
        file.write(b"abc")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_of_two_writers_the_later_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def write_both() -> None:
        with replacing(path, 3, overwrite=False) as first:
            first.write(b"abc")
            with replacing(path, 3, overwrite=False) as second:
                second.write(b"xyz")

    with pytest.raises(CheckpointError, match="another process"):
        write_both()
    assert path.read_bytes() == b"xyz"


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none" / "x", 3, "cannot be written")


def test_dropped_pages_are_read_again(tmp_path: Path) -> None:
    expected = np.arange(5 * 4096, dtype=np.uint16)
    (tmp_path / "x").write_bytes(expected.tobytes())
    view = map_file(tmp_path / "x")[2:].view(np.uint16)[1000:9000]
    assert view.sum(dtype=np.int64) == expected[1001:9001].sum(dtype=np.int64)
    drop_pages(view)
    np.testing.assert_array_equal(view, expected[1001:9001])


def test_drop_pages_of_columns_lets_go_of_all_that_lies_between(tmp_path: Path) -> None:
    np.ones((256, 4096), np.float32).tofile(tmp_path / "x")
    mapped = map_file(tmp_path / "x")
    columns = mapped.view(np.float32).reshape(256, 4096)[:, 1000:1100]

    def resident() -> int:
        text = Path("/proc/self/smaps").read_text().partition(f" {tmp_path / 'x'}\n")[2]
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Rss:")))

    assert columns.sum() == columns.size
    before = resident()
    drop_pages(columns)
    assert resident() <= 16 < before  # kB: what lies before the first of them
    assert columns.sum() == columns.size


def test_drop_pages_leaves_other_arrays_alone() -> None:
    x = np.ones((4096, 4))
    drop_pages(x[1:])
    assert x.sum() == x.size


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (63, 65), (64, 128), (130, 3)])
def test_matrices_are_put_in_row_order(shape: tuple[int, int]) -> None:
    x = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    assert in_row_order(x) is x
    for strided in (x.T, x[::2], x[:, 1:], x.T[1:], np.stack([x, x]).swapaxes(0, 2), x[:, 0] if x.size else x[0:0, 0]):
        found = in_row_order(strided)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, strided)


def test_a_folder_that_was_not_finished_is_started_afresh(tmp_path: Path) -> None:
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "old").write_text("half")
    with replacing_folder(tmp_path / "x", 10, ["mark"], overwrite=False) as folder:
        (folder / "mark").write_text("whole")
        assert not (tmp_path / "x").exists()
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["mark"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_folder_is_filled_if_nothing_of_the_kind_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with replacing_folder(tmp_path, 10, ["mark"], overwrite=False) as folder:
        (folder / "mark").write_text("new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mark", "notes"]
    with (
        pytest.raises(CheckpointError, match="found a checkpoint"),
        replacing_folder(tmp_path, 10, ["mark"], overwrite=False),
    ):
        pytest.fail("the block must not run")
    assert not tmp_path.with_name(tmp_path.name + ".partial").exists()
