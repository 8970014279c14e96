"""One model in several GGUF files, name-00001-of-00003.gguf: any of them opens all; the first has the metadata.

Source: llama.cpp, src/llama.cpp (llama_split_path) and tools/gguf-split
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octuor.checkpoint.gguf_file import GgufFile
from octuor.errors import CheckpointError

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)


@dataclass(frozen=True)
class Shards:
    """Opened files in order, and which of them holds each tensor."""

    files: tuple[GgufFile, ...]
    holders: Mapping[str, GgufFile]


def open_shards(path: Path) -> Shards:
    """Open the file at path and its siblings. Raises CheckpointError naming a shard that is missing or another's."""
    match = _NAME.fullmatch(path.name)
    if match is None or match[3] == "00000":
        file = GgufFile(path)
        if (count := file.integer("split.count") or 1) > 1:
            raise CheckpointError(
                f"{path}: expected a name such as {path.stem}-00001-of-{count:05d}.gguf, for it is one of {count} "
                "shards; give all of them their names back"
            )
        return Shards((file,), dict.fromkeys(file.tensors, file))
    stem, n, suffix = match[1], int(match[3]), match[4]
    paths = [path.with_name(f"{stem}-{i:05d}-of-{n:05d}{suffix}") for i in range(1, n + 1)]
    if missing := [shard.name for shard in paths if not shard.is_file()]:
        raise CheckpointError(
            f"{path}: expected {n} shards, {len(missing)} are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); download them"
        )
    files = tuple(GgufFile(shard) for shard in paths)
    return Shards(files, _join(files))


def _join(files: tuple[GgufFile, ...]) -> dict[str, GgufFile]:
    """Every tensor's file, after checking that the files belong together."""
    holders: dict[str, GgufFile] = {}
    for i, file in enumerate(files):
        found = (file.integer("split.no"), file.integer("split.count"))
        if found not in ((i, len(files)), (None, None)):
            raise CheckpointError(
                f"{file.path}: expected shard {i} of {len(files)}, metadata says {found[0]} of {found[1]}; "
                "give it its own name back"
            )
        if twice := sorted(set(file.tensors) & set(holders)):
            raise CheckpointError(
                f"{file.path}: expected {twice[0]} in one shard, found it in {holders[twice[0]].path.name} too; "
                "are all shards of one model?"
            )
        holders |= dict.fromkeys(file.tensors, file)
    total = files[0].integer("split.tensors.count")
    if total not in (None, len(holders)):
        raise CheckpointError(
            f"{files[0].path}: expected {total} tensors in {len(files)} shards, found {len(holders)}; "
            "are all shards of one model?"
        )
    return holders
