"""Which reader opens a path or a Hugging Face Hub id: one list, asked in order.

1. A path that exists is opened from disk and never looked up on the Hub, whatever its name.
2. A name `org/model` that is no path here, without a file's suffix, is a Hub id: downloaded, then opened. So is
   `org/model:Q4_K_M`, one of a repository's GGUF files.
3. Anything else is an error that says what was looked for.
"""

from __future__ import annotations

import re
from pathlib import Path

from octuor.checkpoint import gguf, huggingface, mistral, pack
from octuor.checkpoint.base import Checkpoint, Reader
from octuor.errors import CheckpointError

READERS: tuple[Reader, ...] = (pack.READER, gguf.READER, mistral.READER, huggingface.READER)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_FILE_SUFFIXES = (".octuor", ".safetensors", ".json", ".gguf", ".pt", ".pth", ".bin")


def open_checkpoint(path_or_id: str | Path) -> Checkpoint:
    """Open a file, a folder, or a model on the Hugging Face Hub.

    Raises CheckpointError if there is no such thing, if no reader knows its kind, or if it is damaged.
    """
    path = Path(path_or_id).expanduser()
    if not path.exists():
        if not is_hub_id(str(path_or_id)):
            raise CheckpointError(
                f"{path_or_id}: no such file or folder, and not a Hugging Face Hub id (org/model); check the spelling"
            )
        from octuor.checkpoint.hub import download

        path = download(str(path_or_id))
    for reader in READERS:
        if reader.matches(path):
            return reader.open(path)
    raise CheckpointError(f"{path}: expected {' or '.join(row.looks_for for row in READERS)}, found {_found(path)}")


def is_hub_id(text: str) -> bool:
    """Whether a text that is no path here may name a model on the Hub."""
    return _HUB_ID.fullmatch(text) is not None and not text.partition(":")[0].lower().endswith(_FILE_SUFFIXES)


def _found(path: Path) -> str:
    """What lies at the path, and what to do where that is a common mistake."""
    if path.is_file():
        if any((path.parent / name).is_file() for name in ("config.json", mistral.PARAMS)):
            return f"one file of a checkpoint; name its folder, {path.parent}"
        return f"a file of another kind ({path.name})"
    names = sorted(entry.name for entry in path.iterdir())
    whole = [name for name in names if name.lower().endswith((pack.SUFFIX, gguf.SUFFIX))]
    if whole:
        return f"a folder with {whole[0]} in it; name that file"
    return f"a folder with {', '.join(names[:6])}" if names else "an empty folder"
