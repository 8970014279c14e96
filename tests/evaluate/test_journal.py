"""What was said is found again after a kill, and only by the same questions of the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.errors import CheckpointError
from octuor.evaluate.journal import Journal, key_of


def test_values_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path, {"model": "a"}) as journal:
        journal.keep("k", {"text": "é\udc80"})
    with Journal(path, {"model": "a"}) as journal:
        assert journal.values == {"k": {"text": "é\udc80"}}


def test_answers_of_another_model_are_not_touched(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {"model": "a", "cache": "f16"}) as journal:
        journal.keep("k", {"x": 1})
    with pytest.raises(CheckpointError, match="found some with another model; name another folder"):
        Journal(tmp_path / "j", {"model": "b", "cache": "f16"})
    with Journal(tmp_path / "j", {"model": "a", "cache": "f16"}) as journal:
        assert journal.values == {"k": {"x": 1}}


def test_a_run_that_was_killed_at_once_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"abo')
    with Journal(tmp_path / "j", {"model": "a"}) as journal:
        assert journal.values == {}


@pytest.mark.parametrize("cut", range(1, 30, 7))
def test_a_line_that_was_cut_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j"
    with Journal(path, {}) as journal:
        journal.keep("k", {"x": 1})
        journal.keep("l", {"x": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, {}) as journal:
        assert journal.values == {"k": {"x": 1}}
        journal.keep("m", {"x": 3})
    with Journal(path, {}) as journal:
        assert journal.values == {"k": {"x": 1}, "m": {"x": 3}}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "j", {}),
        pytest.raises(CheckpointError, match="another evaluation writes here"),
    ):
        Journal(tmp_path / "j", {})


def test_keys_depend_on_every_part() -> None:
    assert key_of("score", (1, 2), (3,)) == key_of("score", [1, 2], [3])
    assert len({key_of("score", (1, 2), (3,)), key_of("score", (1,), (2, 3)), key_of("answer", (1, 2), (3,))}) == 3
