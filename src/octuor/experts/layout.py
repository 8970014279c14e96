"""Where weights lie in their files, and how they lie in memory once they are read past the page cache.

Direct reads move whole blocks, so the image of some weights in memory is that of the blocks that hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.files import MappedFile
from octuor.checkpoint.memory import BLOCK, Bytes
from octuor.quant.base import Array
from octuor.weights import Weight


@dataclass(frozen=True)
class Segment:
    """A stretch of a file and its place in an image; all but n_bytes are multiples of BLOCK.

    file     number of the file
    n_bytes  up to the end of the last block, or of the file
    """

    file: int
    begin: int
    n_bytes: int
    at: int


@dataclass(frozen=True)
class Image:
    """Some weights as they lie in memory.

    weights  as they were opened, views of mapped files
    places   for each array of each weight, in the order of `arrays`, its first byte in the image
    n_bytes  of memory, a multiple of BLOCK
    """

    weights: tuple[Weight, ...]
    segments: tuple[Segment, ...]
    places: tuple[int, ...]
    n_bytes: int

    def over(self, memory: Bytes) -> tuple[Weight, ...]:
        """The weights over memory [n_bytes], which holds them once all segments have been read."""
        places = iter(self.places)
        return tuple(_moved(weight, [_view(memory, next(places), array) for array in arrays(weight)])
                     for weight in self.weights)  # fmt: skip


def arrays(weight: Weight) -> list[Array]:
    """The arrays that a weight is stored in, its own first."""
    return [weight.data, *weight.parts.values()]


def find_image(weights: Sequence[Weight], files: Sequence[MappedFile]) -> Image | None:
    """How weights lie in files and will lie in memory; None where one of them is not as it is in a file."""
    found = []
    for array in (array for weight in weights for array in arrays(weight)):
        place = _find(array, files)
        if place is None:
            return None
        found.append((*place, array.nbytes))
    segments = _segments(found, files)
    places = []
    for file, begin, n_bytes in found:
        segment = next(s for s in segments if s.file == file and s.begin <= begin < s.begin + max(s.n_bytes, 1))
        assert begin + n_bytes <= segment.begin + segment.n_bytes
        places.append(segment.at + begin - segment.begin)
    last = segments[-1]
    return Image(tuple(weights), segments, tuple(places), last.at + _blocks(last.n_bytes))


def _segments(ranges: Iterable[tuple[int, int, int]], files: Sequence[MappedFile]) -> tuple[Segment, ...]:
    """The blocks that hold some ranges (file, first byte, bytes), blocks side by side as one segment."""
    merged: list[tuple[int, int, int]] = []
    for file, begin, n_bytes in sorted(ranges):
        first, end = begin // BLOCK * BLOCK, min(_blocks(begin + max(n_bytes, 1)), files[file].bytes.size)
        if merged and merged[-1][0] == file and first <= merged[-1][2]:
            merged[-1] = (file, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((file, first, end))
    segments, at = [], 0
    for file, first, end in merged:
        segments.append(Segment(file, first, end - first, at))
        at += _blocks(end - first)
    return tuple(segments)


def _find(array: Array, files: Sequence[MappedFile]) -> tuple[int, int] | None:
    """The file and the byte at which an array begins; None: it is in no file as it is."""
    if not array.flags.c_contiguous:
        return None
    start = _address(array)
    for number, file in enumerate(files):
        begin = start - _address(file.bytes)
        if begin >= 0 and begin + array.nbytes <= file.bytes.size:
            return number, begin
    return None


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def _blocks(n_bytes: int) -> int:
    return -(-n_bytes // BLOCK) * BLOCK


def _view(memory: Bytes, at: int, like: Array) -> Array:
    return memory[at : at + like.nbytes].view(like.dtype).reshape(like.shape)


def _moved(weight: Weight, found: Sequence[Array]) -> Weight:
    return replace(weight, data=found[0], parts=dict(zip(weight.parts, found[1:], strict=True)))
