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
from octuor.checkpoint.hub import download, find_model
from octuor.checkpoint.open import is_hub_id
from octuor.errors import CheckpointError

REPO = "mistralai/Mixtral-8x7B-Instruct-v0.1"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", Mock(side_effect=ConnectionError("no network")))


def ask(monkeypatch: pytest.MonkeyPatch, folder: Path, files: list[str], model: str = REPO) -> tuple[Path, set[str]]:
    """What is returned, and which of a repository's files are downloaded."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **kw: asked.update(kw) or str(folder))
    found = download(model)
    return found, {name for name in files if any(fnmatch(name, each) for each in asked["allow_patterns"])}


def test_a_download_is_opened(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, too, where it is in the cache."""
    path = folder()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **__: str(path))
    assert open_checkpoint(REPO).source == path


SMALL = ["config.json", "params.json", "tokenizer.model", "tokenizer.model.v3"]


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (
            ["model-00001-of-00019.safetensors", "model.safetensors.index.json"],
            ["consolidated.00.pt", "consolidated.safetensors", "pytorch_model.bin"],
        ),
        (["gptq_model-4bit-128g.safetensors", "quantize_config.json"], ["README.md"]),
        (["consolidated-00001-of-00002.safetensors"], ["consolidated.00.pt"]),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], ["consolidated.00.pth"]),
        (["consolidated.00.pth"], ["README.md"]),
        (["weights.safetensors"], ["README.md"]),
        (["qmodel.pt"], ["README.md"]),
    ],
)
def test_only_what_is_read_is_downloaded(
    taken: list[str], left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, names = ask(monkeypatch, tmp_path, [*SMALL, *taken, *left, "README.md"])
    assert found == tmp_path
    assert names == {*SMALL, *taken}


GGUF = ["m.Q4_K_M.gguf", "m.Q4_K_S.gguf", "m.Q8_0-00001-of-00002.gguf", "m.Q8_0-00002-of-00002.gguf"]


def test_one_of_the_gguf_files_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, tmp_path, GGUF, f"{REPO}:q4_k_m") == (tmp_path / GGUF[0], {GGUF[0]})
    assert ask(monkeypatch, tmp_path, GGUF, f"{REPO}:Q8_0") == (tmp_path / GGUF[2], {GGUF[2], GGUF[3]})
    assert ask(monkeypatch, tmp_path, GGUF[:1]) == (tmp_path / GGUF[0], {GGUF[0]})
    for name, message in (
        (REPO, "found 3 of m.Q4_K_M.gguf"),
        (f"{REPO}:Q4", "found 2 of"),
        (f"{REPO}:Q2", "found 0 of"),
    ):
        with pytest.raises(CheckpointError, match=rf"{message}.*name one, as in {REPO}:Q4_K_M"):
            ask(monkeypatch, tmp_path, GGUF, name)


def test_gguf_files_are_not_looked_at_by_their_headers() -> None:
    with pytest.raises(CheckpointError, match="download the file you want and name it"):
        find_model(f"{REPO}:Q4_K_M")


def test_a_gguf_file_is_a_hub_id_too() -> None:
    assert is_hub_id(f"{REPO}:Q4_K_M")
    assert not is_hub_id("folder/model.gguf")
    assert not is_hub_id("a/b/c")


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
