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
from octuor.checkpoint.files import PartialFile, bytes_of
from octuor.checkpoint.safetensors_file import SafetensorsFile, encode_header, write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant import Format, find_in_packs
from octuor.quant.base import Array, ceil_div
from octuor.weights import Weight, weight_shapes

SUFFIX = ".octuor"
FORMAT = "octuor-pack"
VERSION = 1
PAGE = 4096  # the smallest page of the machines we run on; larger ones only lose the tidy edge
LINE = 64  # bytes of a cache line and of the widest vector register
NOTES_BYTES = 32 << 10  # room in a header for what is known only when all is written
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
    metadata = _describe(config, formats, tokenizer)

    def all_pieces(name: str) -> Iterable[Array]:
        if name in shapes:
            return pieces(name)
        if tokenizer is not None and name == tokenizer.kind:
            return [np.frombuffer(tokenizer.data, dtype=np.uint8)]
        return [np.zeros(sizes[name], dtype=np.uint8)]

    return write_safetensors(path, tensors, all_pieces, metadata, data_multiple=PAGE, overwrite=overwrite)


class PackInParts:
    """A pack that is written weight by weight in any order, and that a later process can go on with.

    Its partial file opens as a pack from the beginning; weights not yet written are zeros.

    resume   go on with a partial file of the same length, if there is one
    resumed  whether there was; which weights it has is for the caller to know
    n_bytes  of the whole file
    partial  where it is until `finish`

    Raises CheckpointError before anything is written if the file exists or the disk has no room.
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        formats: Mapping[str, Format],
        tokenizer: TokenizerFile | None = None,
        *,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self._tensors = _layout(config, formats, tokenizer)
        self._metadata = _describe(config, formats, tokenizer)
        head, n_data = encode_header(self._tensors, self._metadata, data_multiple=PAGE)
        self._head_bytes = ceil_div(len(head) + NOTES_BYTES, PAGE) * PAGE
        self._begins: dict[str, int] = {}
        at = self._head_bytes
        for tensor in self._tensors:
            self._begins[tensor.name] = at
            at += tensor.n_bytes
        self.n_bytes = self._head_bytes + n_data
        self._file = PartialFile(path, self.n_bytes, overwrite=overwrite, resume=resume)
        self.resumed, self.partial = self._file.resumed, self._file.partial
        self.note({})
        if tokenizer is not None:
            self.write(tokenizer.kind, [np.frombuffer(tokenizer.data, dtype=np.uint8)])

    def __enter__(self) -> PackInParts:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def write(self, name: str, pieces: Iterable[Array]) -> None:
        """A weight's storage from first to last byte, cut along its first axis."""
        at = self._begins[name]
        for piece in pieces:
            self._file.write(bytes_of(piece), at)
            at += piece.nbytes
        assert at == self._begins[name] + next(t.n_bytes for t in self._tensors if t.name == name), name

    def note(self, metadata: Mapping[str, str]) -> None:
        """Write the header, with more metadata: NOTES_BYTES of it at most."""
        head, _ = encode_header(
            self._tensors, self._metadata | dict(metadata), data_multiple=PAGE, n_bytes=self._head_bytes
        )
        assert len(head) == self._head_bytes, (len(head), self._head_bytes)
        self._file.write(memoryview(head), 0)

    def sync(self) -> None:
        """Bring what was written to the disk."""
        self._file.sync()

    def finish(self) -> None:
        """Give the file its name; nothing can be written after this."""
        self._file.finish()


def _describe(config: ModelConfig, formats: Mapping[str, Format], tokenizer: TokenizerFile | None) -> dict[str, str]:
    """The header's metadata."""
    shapes = dict(weight_shapes(config))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": config.to_json(),
        "tensors": json.dumps({name: {"format": formats[name].name, "shape": shapes[name]} for name in shapes}),
    }
    if tokenizer is not None:
        metadata["tokenizer"] = tokenizer.kind
    return metadata


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
        formats = {name: find_in_packs(rows[name]["format"]) for name in shapes}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file.path}: expected a format for every weight, metadata lacks {error}") from error
    except FormatError as error:
        raise CheckpointError(f"{file.path}: {error}; upgrade octuor to read it") from error
    for name, shape in shapes.items():
        row = formats[name]
        if not row.takes(shape):
            raise CheckpointError(
                f"{name}: expected a format that stores {list(shape)}, metadata names {row.name} ({file.path}); "
                "convert it again"
            )
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
