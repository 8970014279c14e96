"""The octuor pack: a safetensors file laid out so that opening it is a map and an expert is one read.

What every token needs comes first, then the experts, layer by layer, each beginning on a page with its gate, up
and down together. docs/pack-format.md is the description for people; any safetensors library opens the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octuor.checkpoint.base import Checkpoint, Reader
from octuor.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant import Format, find_format
from octuor.quant.base import Array
from octuor.weights import Weight, weight_shapes

SUFFIX = ".octuor"
FORMAT = "octuor-pack"
VERSION = 1
PAGE = 4096  # the smallest page of the machines we run on; larger ones only lose the tidy edge
LINE = 64  # bytes of a cache line and of the widest vector register
TOKENIZERS = ("tokenizer.model", "tokenizer.json")


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer to carry in a pack; kind is one of TOKENIZERS."""

    kind: str
    data: bytes


def write_pack(
    path: Path,
    config: ModelConfig,
    formats: Mapping[str, Format],
    pieces: Callable[[str], Iterable[Array]],
    tokenizer: TokenizerFile | None = None,
    *,
    overwrite: bool = False,
) -> int:
    """Write a pack weight by weight and return its bytes.

    formats  canonical name -> number format, for every weight of the config
    pieces   canonical name -> the weight's storage from first to last byte, cut along its first axis;
             called once a name, in the file's order

    Raises CheckpointError as write_safetensors does; nothing is left of a pack that was not finished.
    """
    shapes = dict(weight_shapes(config))
    tensors = _layout(config, formats, tokenizer)
    sizes = {tensor.name: tensor.n_bytes for tensor in tensors}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": config.to_json(),
        "tensors": json.dumps({name: {"format": formats[name].name, "shape": shapes[name]} for name in shapes}),
    }
    if tokenizer is not None:
        metadata["tokenizer"] = tokenizer.kind

    def all_pieces(name: str) -> Iterable[Array]:
        if name in shapes:
            return pieces(name)
        if tokenizer is not None and name == tokenizer.kind:
            return [np.frombuffer(tokenizer.data, dtype=np.uint8)]
        return [np.zeros(sizes[name], dtype=np.uint8)]

    return write_safetensors(path, tensors, all_pieces, metadata, data_multiple=PAGE, overwrite=overwrite)


def _layout(config: ModelConfig, formats: Mapping[str, Format], tokenizer: TokenizerFile | None) -> list[Tensor]:
    """All tensors in file order, with padding between them where an alignment asks for it."""
    tensors: list[Tensor] = []
    at = 0

    def align(multiple: int) -> None:
        nonlocal at
        if gap := -at % multiple:
            tensors.append(Tensor(f"_pad.{len(tensors)}", "U8", (gap,)))
            at += gap

    def place(name: str, dtype: str, shape: tuple[int, ...], multiple: int) -> None:
        nonlocal at
        align(multiple)
        tensors.append(Tensor(name, dtype, shape))
        at += tensors[-1].n_bytes

    if tokenizer is not None:
        place(tokenizer.kind, "U8", (len(tokenizer.data),), LINE)
    ordered = sorted(weight_shapes(config), key=lambda item: ".experts." in item[0])  # stable: experts go last
    for name, shape in ordered:
        row = formats[name]
        begins_expert = ".experts." in name and name.endswith(".gate")
        place(name, row.safetensors, row.storage_shape(shape), PAGE if begins_expert else LINE)
    align(PAGE)  # so that the last expert, too, may be read in whole pages
    return tensors


def is_pack(path: Path) -> bool:
    """Whether a path is a pack: by its suffix, or, for another safetensors file, by its metadata."""
    if not path.is_file():
        return False
    if path.suffix == SUFFIX:
        return True
    return path.suffix == ".safetensors" and SafetensorsFile(path).metadata.get("format") == FORMAT


def open_pack(path: Path) -> Checkpoint:
    """Map a pack. Raises CheckpointError if it is not one, is damaged, or is newer than this reader."""
    file = SafetensorsFile(path)
    if (found := file.metadata.get("format")) != FORMAT:
        raise CheckpointError(
            f"{path}: expected metadata format {FORMAT!r}, found {found!r}; make one with `octuor convert`"
        )
    version = file.metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(f"{path}: expected pack version {VERSION}, found {version!r}; upgrade octuor to read it")
    config = ModelConfig.from_json(_metadata(file, "config"), str(path))
    shapes = dict(weight_shapes(config))
    formats = _check(file, shapes)

    def load(name: str) -> Weight:
        return Weight(file.get(name), shapes[name], formats[name], name)

    kind = file.metadata.get("tokenizer")
    if kind is not None and (kind not in TOKENIZERS or kind not in file.tensors):
        raise CheckpointError(
            f"{path}: expected a tensor named one of {', '.join(TOKENIZERS)}, metadata names {kind!r}; convert it again"
        )
    tokenizer = None if kind is None else file.get(kind).tobytes()
    return Checkpoint(config, path, READER.name, load, tokenizer, kind, (file.file,))


def _check(file: SafetensorsFile, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Format]:
    """The number format of every weight, after comparing the header with what config and format ask for."""
    try:
        rows: dict[str, dict[str, Any]] = json.loads(_metadata(file, "tensors"))
        formats = {name: find_format(rows[name]["format"]) for name in shapes}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file.path}: expected a format for every weight, metadata lacks {error}") from error
    except FormatError as error:
        raise CheckpointError(f"{file.path}: {error}; upgrade octuor to read it") from error
    for name, shape in shapes.items():
        row = formats[name]
        stored = file.tensors.get(name)
        wanted = (row.safetensors, row.storage_shape(shape))
        if stored is None or (stored.dtype, stored.shape) != wanted:
            found = "no such tensor" if stored is None else f"{stored.dtype} {list(stored.shape)}"
            raise CheckpointError(
                f"{name}: expected {wanted[0]} {list(wanted[1])} for {row.name} {list(shape)}, file has {found} "
                f"({file.path}); convert it again"
            )
    return formats


def _metadata(file: SafetensorsFile, key: str) -> str:
    if key not in file.metadata:
        raise CheckpointError(f"{file.path}: expected {key!r} in the pack's metadata, found none; convert it again")
    return file.metadata[key]


READER = Reader("octuor pack", f"an octuor pack (*{SUFFIX})", is_pack, open_pack)
