"""A checkpoint's files of tensors, opened as one: a single file, parts to join, or shards with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from octuor.checkpoint.safetensors_file import SafetensorsFile
from octuor.checkpoint.tensors import TensorFile, TensorStore
from octuor.checkpoint.torch_file import SUFFIXES, TorchFile
from octuor.errors import CheckpointError

_NUMBERED = re.compile(r"-of-(\d{1,9})\.")


def open_index(index: Path) -> TensorStore:
    """The shards that an index names, in its own folder; a tensor that two of them hold is the one the index means."""
    owners = _weight_map(index)
    names = sorted(set(owners.values()))
    folder = index.parent
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder}: expected {len(names)} shards, {len(missing)} are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); download them"
        )
    return TensorStore([open_tensors(folder / name) for name in names], _label(folder, names), owners)


def open_parts(folder: Path, names: Sequence[str]) -> TensorStore:
    """Files that together hold a model, each tensor in one of them; CheckpointError where two hold the same."""
    files = [open_tensors(folder / name) for name in names]
    holders: dict[str, TensorFile] = {}
    for file in files:
        for name in file.tensors:
            if name in holders:
                raise CheckpointError(
                    f"{folder}: expected {name} in one file, found it in {holders[name].path.name} and "
                    f"{file.path.name}; are they parts of one model, each whole in itself?"
                )
            holders[name] = file
    return TensorStore(files, _label(folder, names))


def open_numbered(folder: Path, names: Sequence[str]) -> TensorStore:
    """Files NAME-00001-of-0000N that no index lists, or a single file; CheckpointError where some of N are missing."""
    stated = {int(match[1]) for name in names if (match := _NUMBERED.search(name))}
    n = stated.pop() if len(stated) == 1 else 1
    if stated or n != len(names):
        raise CheckpointError(
            f"{folder}: expected {n} files {names[0]} and so on, found {len(names)} with numbers of "
            f"{sorted({n, *stated})}; download them, and no others"
        )
    return open_parts(folder, names)


def open_tensors(path: Path) -> TensorFile:
    """One file, by its suffix: safetensors or PyTorch's own."""
    return TorchFile(path) if path.suffix in SUFFIXES else SafetensorsFile(path)


def _label(folder: Path, names: Sequence[str]) -> str:
    return str(folder / names[0]) if len(names) == 1 else f"the {len(names)} shards in {folder}"


def _weight_map(index: Path) -> Mapping[str, str]:
    """Tensor to file name, as the index has it: at least one, each a file beside the index."""
    try:
        owners = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(owners.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: expected a JSON object with weight_map, found {error!r}; download it again"
        ) from error
    strange = [name for name in names if type(name) is not str or not name or Path(name).name != name or "\0" in name]
    if strange or not names:
        raise CheckpointError(
            f"{index}: expected names of files beside it as weight_map's values, found {str(strange[:1])[:80]}; "
            "download it again"
        )
    weight_map: Mapping[str, str] = owners
    return weight_map
