"""Convert any checkpoint to an octuor pack in one number format, or in a mix of them.

Weights stream through in blocks of rows, so a model of any size converts in a few hundred MB of memory, and the
source's mapped pages are let go behind the block at work. Readers know where weights lie, formats how they look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.files import drop_pages, in_row_order
from octuor.checkpoint.open import open_checkpoint
from octuor.checkpoint.pack import TokenizerFile, write_pack
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant import BF16, F16, F32, Format, find_format
from octuor.quant.base import Array, Storage
from octuor.weights import Weight, weight_shapes

if TYPE_CHECKING:
    from octuor.ops.native import NativeOps

CHUNK_WEIGHTS = 4 << 20  # weights at work at once: 16 MiB as float32
ROW_MULTIPLE = 64  # blocks of rows end where the tiles of every tiled format end
MATRICES = ("embed", "wq", "wk", "wv", "wo", "gate", "up", "down", "lm_head")
# Parts that are a small share of a model and a large one of its error keep more bits: docs/formats.md has the figures.
KEPT = {
    "q5": {"lm_head": "q6"},
    "q4": {"lm_head": "q6"},
    "q3": {"lm_head": "q6", "embed": "q6"},
    "q2": {"lm_head": "q6", "embed": "q6"},
}

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Quantize = Callable[[NDArray[Any], Format], Array]  # float32, float16 or bfloat16 (as uint16) [out, in] to storage
Dequantize = Callable[[Weight], NDArray[np.float32]]


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did; bytes_in are the weights read, bytes_out the file written."""

    path: Path
    bytes_in: int
    bytes_out: int
    seconds: float


def convert(
    source: str | Path | Checkpoint,
    out: Path,
    format_name: str,
    *,
    overrides: Mapping[str, str] | None = None,
    quantize: Quantize | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> ConvertReport:
    """Write `source` as a pack.

    format_name  for all matrices but the router; norms and router are kept as f32, they are small and decide much,
                 and lm_head and embed as KEPT has it
    overrides    other formats by part, such as {"embed": "q8", "lm_head": "q8"}; parts are those of MATRICES
    quantize     makes tiles; None: the native kernels on all CPUs that this process may use
    progress     called after each block of rows with bytes of the source done and in all

    A conversion that is interrupted leaves nothing under the output's name; run again, it starts again.
    Raises CheckpointError if a weight is not finite (naming its row), if the output exists and overwrite is False,
    or if its disk has no room for it; FormatError on an unknown format or part.
    """
    began = time.perf_counter()
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    formats = choose_formats(checkpoint.config, format_name, overrides or {})
    stream = WeightStream(checkpoint, quantize or native_quantizer(), progress)
    tokenizer = tokenizer_of(checkpoint)
    bytes_out = write_pack(
        out, checkpoint.config, formats, lambda name: stream.pieces(name, formats[name]), tokenizer, overwrite=overwrite
    )
    return ConvertReport(out, stream.done, bytes_out, time.perf_counter() - began)


class WeightStream:
    """A checkpoint's weights on their way into a file: block by block, the source's pages let go behind each.

    done  bytes of the source that were read
    """

    def __init__(self, checkpoint: Checkpoint, quantize: Quantize, progress: Progress | None = None) -> None:
        self.checkpoint = checkpoint
        self.done = 0
        self._quantize, self._progress = quantize, progress
        self._total = 0 if progress is None else checkpoint.n_bytes

    def pieces(self, name: str, target: Format) -> Iterator[Array]:
        """A weight's storage in the target format, cut between rows.

        Raises CheckpointError where a weight is not finite, or too large for the target, naming the row.
        """
        first_row, before = 0, self.done
        weight = self.checkpoint.get(name)
        for block in row_blocks(weight):
            yield convert_block(block, first_row, target, self._quantize, self._dequantize)
            for array in (block.data, *block.parts.values()):
                drop_pages(array)
            first_row += block.shape[0]
            self.done = before + weight.nbytes * first_row // weight.shape[0]  # a block may share arrays with others
            if self._progress is not None:
                self._progress(self.done, self._total)

    def _dequantize(self, block: Weight) -> NDArray[np.float32]:
        return self._native.dequantize(block)

    @cached_property
    def _native(self) -> NativeOps:
        from octuor.ops.native import NativeOps

        return NativeOps()  # made where it is needed, for the extension takes time to load


def choose_formats(config: ModelConfig, format_name: str, overrides: Mapping[str, str]) -> dict[str, Format]:
    """The format of every weight by canonical name, as `convert` chooses them."""
    if unknown := sorted(set(overrides) - set(MATRICES)):
        raise FormatError(f"format overrides: expected parts among {', '.join(MATRICES)}; found {', '.join(unknown)}")
    find_format(format_name)
    chosen = dict.fromkeys(MATRICES, format_name) | KEPT.get(format_name, {}) | dict(overrides)
    by_part = {part: find_format(name) for part, name in chosen.items()}
    return {name: by_part.get(name.rpartition(".")[2], F32) for name, _ in weight_shapes(config)}


def tokenizer_of(checkpoint: Checkpoint) -> TokenizerFile | None:
    """The checkpoint's tokenizer for a pack to carry, None where it has none."""
    data = checkpoint.tokenizer_bytes()
    if data is None or checkpoint.tokenizer_kind is None:
        return None
    return TokenizerFile(checkpoint.tokenizer_kind, data)


def native_quantizer() -> Quantize:
    """The default quantizer; made where it is needed, for the extension takes time to load."""
    from octuor.ops.native import quantizer

    return quantizer()


def row_blocks(weight: Weight) -> Iterator[Weight]:
    """A weight cut into blocks of whole rows, in order, each a view."""
    n_rows, *inputs = weight.shape
    multiple = lcm(ROW_MULTIPLE, weight.format.row_multiple)
    step = max(CHUNK_WEIGHTS // (inputs[0] if inputs else 1) // multiple, 1) * multiple
    for start in range(0, n_rows, step):
        yield weight.rows(start, min(start + step, n_rows))


def convert_block(block: Weight, first_row: int, target: Format, quantize: Quantize, dequantize: Dequantize) -> Array:
    """The storage of a block in the target format; errors count rows from first_row."""
    stored = block.format
    if isinstance(stored, Format) and stored.is_tiled and target == stored:
        return block.data
    # Plain numbers are read as they lie; what is stored otherwise is float32 on the way.
    numbers, plain = (in_row_order(block.data), stored) if stored in (F32, F16, BF16) else (dequantize(block), F32)
    if (row := _first_bad_row(numbers, plain)) is not None:
        raise CheckpointError(
            f"{block.name}: expected finite weights, found NaN or infinity in row {first_row + row}; "
            "is the download whole?"
        )
    if target == plain:
        return numbers
    if target.is_tiled:
        return quantize(numbers, target)
    with np.errstate(over="ignore"):  # reported here, with its place
        data = target.quantize(block.to_f32() if plain != F32 else numbers)
    if target == F16 and (row := _first_bad_row(data, target)) is not None:
        raise CheckpointError(
            f"{block.name}: expected weights up to 65504 for f16, found a larger one in row {first_row + row}; "
            "convert to bf16"
        )
    return data


def _first_bad_row(data: Array, row: Storage) -> int | None:
    """The first row of plain numbers that holds one that is not finite, found without widening them."""
    exponent = np.uint16(0x7F80)  # of bfloat16; all ones: infinity or NaN
    finite = (data & exponent) != exponent if row == BF16 else np.isfinite(data)
    return None if finite.all() else int(np.argwhere(~finite)[0, 0])
