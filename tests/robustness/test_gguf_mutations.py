"""Some damaged GGUF files; live_gguf.py has many."""

from __future__ import annotations

from pathlib import Path

from octuor.checkpoint import open_checkpoint
from robustness.gguf_mutations import DATA_BYTES, TINY, change, fuzz, read_all, tiny_file

N_EXAMPLES = 200


def test_the_file_itself_is_read(tmp_path: Path) -> None:
    data = tiny_file(tmp_path)
    assert read_all(tmp_path / "tiny.gguf") == "read"
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert checkpoint.config == TINY
    assert checkpoint.n_bytes == DATA_BYTES < len(data)


def test_changes_are_what_they_say() -> None:
    data = bytes(range(16))
    assert change(data, "flip", 3, 7)[:5] == b"\0\1\2\x83\4"
    assert change(data, "u32", 2, 2**64 - 1) == b"\0\1" + b"\xff" * 4 + data[6:]
    assert change(data, "cut", 5, 0) == data[:5]
    assert change(data, "drop", 5, 2) == data[:5] + data[7:]
    assert change(data, "repeat", 5, 2) == data[:7] + data[5:]


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, N_EXAMPLES)
    assert outcomes.total() >= N_EXAMPLES
    assert set(outcomes) == {"read", "refused"}
