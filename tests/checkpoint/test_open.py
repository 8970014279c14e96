"""Which paths are opened by whom, what is a Hub id, and what is neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from octuor.checkpoint import READERS, open_checkpoint
from octuor.errors import CheckpointError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hub ids that were asked for; there is no network."""
    ids: list[str] = []

    def unreachable(repo_id: str, **_: Any) -> str:
        ids.append(repo_id)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    return ids


@pytest.mark.parametrize("name", ["mistralai/Mixtral-8x7B-v0.1", "a/b"])
def test_org_and_name_are_looked_up_on_the_hub(asked: list[str], name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such folder here"):
        open_checkpoint(name)
    assert asked == [name]


@pytest.mark.parametrize("name", ["none", "/no/where", "./a/b", "a/b/c", "models/x.octuor", "a/b.safetensors", ""])
def test_other_names_are_paths(asked: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        open_checkpoint(name)
    assert not asked


def test_a_path_that_exists_is_never_looked_up(
    folder: Any, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    folder().rename(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/model").kind == "Hugging Face"
    assert not asked


def test_unknown_kinds_are_told_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="an empty folder"):
        open_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(CheckpointError, match=r"notes.txt") as caught:
            open_checkpoint(path)
        for reader in READERS:
            assert reader.looks_for in str(caught.value)


@pytest.mark.parametrize("name", ["m.octuor", "m.Q4_K_M.gguf"])
def test_a_folder_with_a_whole_model_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"with {name} in it; name that file"):
        open_checkpoint(tmp_path)


def test_one_file_of_a_folder_names_the_folder(folder: Any) -> None:
    path = folder()
    with pytest.raises(CheckpointError, match=f"name its folder, {path}"):
        open_checkpoint(path / "model.safetensors")
