"""Downloads, with huggingface_hub's one function replaced: what is asked for, and how failures read."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import errors

from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.hub import download
from octuor.errors import CheckpointError

REPO = "mistralai/Mixtral-8x7B-Instruct-v0.1"


def test_a_download_is_opened(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **__: str(path))
    assert open_checkpoint(REPO).source == path


def test_only_what_is_read_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **kw: asked.update(kw) or str(tmp_path))
    assert download(REPO) == tmp_path

    def wanted(file: str) -> bool:
        allowed = any(fnmatch(file, pattern) for pattern in asked["allow_patterns"])
        return allowed and not any(fnmatch(file, pattern) for pattern in asked["ignore_patterns"])

    for file in ("config.json", "model-00001-of-00019.safetensors", "model.safetensors.index.json", "tokenizer.model"):
        assert wanted(file), file
    for file in ("consolidated.00.pt", "consolidated.safetensors", "pytorch_model.bin", "README.md"):
        assert not wanted(file), file


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route to host"), "could not be reached"),
        (errors.LocalEntryNotFoundError("not in the cache\nand more"), r"\(not in the cache\)"),
        (errors.HfHubHTTPError.__bases__[0]("timed out"), "timed out"),
        (errors.OfflineModeIsEnabled(), "OfflineModeIsEnabled"),
        (errors.RepositoryNotFoundError("404", response=Mock()), "no such model on the Hugging Face Hub"),
        (errors.GatedRepoError("403", response=Mock()), "hf auth login"),
    ],
)
def test_failures_say_what_to_do(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(CheckpointError, match=message) as caught:
        download(REPO)
    assert str(caught.value).startswith(REPO)
    assert "\n" not in str(caught.value)


def test_without_network_the_local_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=ConnectionError("down")))
    with pytest.raises(CheckpointError, match=r"a folder with config.json .* a pack made by `octuor convert`"):
        download(REPO)
