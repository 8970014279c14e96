"""The safetensors container: read through a mapping, written as a stream.

Own code beside the safetensors library because NumPy has no bfloat16 (its numbers travel as uint16, see
quant/plain.py) and because a pack of 90 GB is written piece by piece. Knows nothing of models.

    8 bytes    header length, little-endian
    header     JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}, padded
               with blanks
    data       the tensors, back to back without holes

Source: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from octuor.checkpoint.files import Blocks, MappedFile, replacing
from octuor.checkpoint.tensors import DTYPES, Tensor
from octuor.errors import CheckpointError
from octuor.quant.base import Array, ceil_div

MAX_HEADER_BYTES = 100_000_000  # the library's own limit


class SafetensorsFile:
    """A file opened for reading: the header is read and checked whole, the data is mapped.

    tensors     by name, in the order of the data
    metadata    the header's own strings
    data_start  where the data begins in the file
    file        its bytes

    Raises CheckpointError if the file is not safetensors, is damaged, or is shorter or longer than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        header = self._read_header()
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        entries = sorted(
            (self._entry(name, header[name]) for name in header), key=lambda entry: (entry.begin, entry.end)
        )
        self.tensors = {entry.name: entry for entry in entries}
        at = 0
        for entry in entries:
            if entry.begin != at:
                raise CheckpointError(
                    f"{path}: expected {entry.name} to begin at byte {at} of the data, header says {entry.begin}; "
                    "download it again"
                )
            at = entry.end
        if self.file.bytes.size != self.data_start + at:
            raise CheckpointError(
                f"{path}: expected {self.data_start + at} bytes, found {self.file.bytes.size}; download it again"
            )

    def get(self, name: str) -> Array:
        """A tensor as a read-only view of the mapped file, without reading it; bfloat16 as uint16."""
        entry = self.tensors[name]
        data = self.file.bytes[self.data_start + entry.begin : self.data_start + entry.end]
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def _read_header(self) -> dict[str, Any]:
        raw = self.file.bytes
        self.file.refuse_pointer()
        length = int.from_bytes(raw[:8].tobytes(), "little")
        if raw.size < 10 or not 2 <= length <= MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{self.path}: expected a safetensors header of 2 to {MAX_HEADER_BYTES} bytes, found "
                f"{length} in a file of {raw.size}; is it a safetensors file, downloaded whole?"
            )
        if raw.size < 8 + length:
            raise CheckpointError(
                f"{self.path}: expected a header of {length} bytes, found {raw.size - 8}; download it again"
            )
        self.data_start = 8 + length
        try:
            header = json.loads(raw[8 : self.data_start].tobytes())
        except ValueError as error:
            raise CheckpointError(f"{self.path}: expected a JSON header, found {error}; download it again") from error
        if not isinstance(header, dict):
            raise CheckpointError(f"{self.path}: expected a JSON object as header, found a {type(header).__name__}")
        return header

    def _entry(self, name: str, fields: Any) -> Tensor:
        try:
            dtype, shape = fields["dtype"], tuple(int(n) for n in fields["shape"])
            begin, end = (int(n) for n in fields["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: expected dtype, shape and two data_offsets for {name}, found {fields!r}"
            ) from error
        if dtype not in DTYPES:
            raise CheckpointError(f"{self.path}: expected {name} as one of {', '.join(DTYPES)}, found {dtype!r}")
        entry = Tensor(name, dtype, shape, begin)
        if begin < 0 or min(shape, default=0) < 0 or end != entry.end:
            raise CheckpointError(
                f"{self.path}: expected {entry.n_bytes} bytes for {name} ({dtype} {list(shape)}), header says "
                f"{begin} to {end}; download it again"
            )
        return entry


def write_safetensors(
    path: Path,
    tensors: Sequence[Tensor],
    pieces: Callable[[str], Iterable[Array]],
    metadata: Mapping[str, str],
    *,
    data_multiple: int = 8,
    overwrite: bool = False,
) -> int:
    """Write a file tensor by tensor, in the order given (their `begin` is not read); returns its bytes.

    pieces         a tensor's name -> its data from first to last byte, in arrays of its dtype
    data_multiple  the data begins at a multiple of this, so that offsets in it are aligned in the file

    Raises CheckpointError before anything is written if the file exists or the disk has no room. Whatever is
    raised on the way, by `pieces` too, leaves no file.
    """
    head, n_data = encode_header(tensors, metadata, data_multiple=data_multiple)
    total = len(head) + n_data
    with replacing(path, total, overwrite=overwrite) as whole_file, Blocks(whole_file) as file:
        file.write(head)
        for tensor in tensors:
            written = 0
            for piece in pieces(tensor.name):
                assert piece.dtype == DTYPES[tensor.dtype], (tensor, piece.dtype)
                file.write_array(piece)
                written += piece.nbytes
            assert written == tensor.n_bytes, (tensor, written)
    return total


def encode_header(
    tensors: Sequence[Tensor], metadata: Mapping[str, str], *, data_multiple: int = 8, n_bytes: int = 0
) -> tuple[bytes, int]:
    """All that stands before the data of these tensors, back to back, and the data's bytes.

    n_bytes  of it at least; more blanks make room for more metadata later
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.n_bytes],
        }
        at += tensor.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(ceil_div(max(8 + len(text), n_bytes), data_multiple) * data_multiple - 8)
    return len(text).to_bytes(8, "little") + text, at
