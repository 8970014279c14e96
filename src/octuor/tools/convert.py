"""Convert any checkpoint to an octuor pack in one number format, or in a mix of them.

Weights stream through in blocks of rows, so a model of any size converts in a few hundred MB of memory, and the
source's mapped pages are let go behind the block at work. Readers know where weights lie, formats how they look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.files import drop_pages
from octuor.checkpoint.open import open_checkpoint
from octuor.checkpoint.pack import TokenizerFile, write_pack
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, FormatError
from octuor.quant import BF16, F32, Format, find_format
from octuor.quant.base import Array
from octuor.weights import Weight, weight_shapes

CHUNK_WEIGHTS = 4 << 20  # weights at work at once: 16 MiB as float32
ROW_MULTIPLE = 64  # blocks of rows end where the tiles of every tiled format end
MATRICES = ("embed", "wq", "wk", "wv", "wo", "gate", "up", "down", "lm_head")

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Quantize = Callable[[NDArray[np.float32], Format], Array]


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did; bytes_in are the weights read, bytes_out the file written."""

    path: Path
    bytes_in: int
    bytes_out: int
    seconds: float


def default_quantize(x: NDArray[np.float32], row: Format) -> Array:
    """Float32 [out, in] to the storage of a format."""
    return row.quantize(x)


def convert(
    source: str | Path | Checkpoint,
    out: Path,
    format_name: str,
    *,
    overrides: Mapping[str, str] | None = None,
    quantize: Quantize = default_quantize,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> ConvertReport:
    """Write `source` as a pack.

    format_name  for all matrices but the router; norms and router are kept as f32, they are small and decide much
    overrides    other formats by part, such as {"embed": "q8", "lm_head": "q8"}; parts are those of MATRICES
    progress     called after each block of rows with bytes of the source done and in all

    A conversion that is interrupted leaves nothing under the output's name; run again, it starts again.
    Raises CheckpointError if a weight is not finite (naming its row), if the output exists and overwrite is False,
    or if its disk has no room for it; FormatError on an unknown format or part.
    """
    began = time.perf_counter()
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    formats = choose_formats(checkpoint.config, format_name, overrides or {})
    total, done = checkpoint.n_bytes, 0

    def pieces(name: str) -> Iterable[Array]:
        nonlocal done
        weight = checkpoint.get(name)
        for stored, start, stop in _blocks(weight):
            yield _convert_block(weight, stored, start, stop, formats[name], quantize)
            drop_pages(stored)
            done += stored.nbytes
            if progress is not None:
                progress(done, total)

    data = checkpoint.tokenizer_bytes()
    tokenizer = None
    if data is not None and checkpoint.tokenizer_kind is not None:
        tokenizer = TokenizerFile(checkpoint.tokenizer_kind, data)
    bytes_out = write_pack(out, checkpoint.config, formats, pieces, tokenizer, overwrite=overwrite)
    return ConvertReport(out, total, bytes_out, time.perf_counter() - began)


def choose_formats(config: ModelConfig, format_name: str, overrides: Mapping[str, str]) -> dict[str, Format]:
    """The format of every weight by canonical name, as `convert` chooses them."""
    if unknown := sorted(set(overrides) - set(MATRICES)):
        raise FormatError(f"format overrides: expected parts among {', '.join(MATRICES)}; found {', '.join(unknown)}")
    by_part = {part: find_format(overrides.get(part, format_name)) for part in MATRICES}
    return {name: by_part.get(name.rpartition(".")[2], F32) for name, _ in weight_shapes(config)}


def _blocks(weight: Weight) -> Iterable[tuple[Array, int, int]]:
    """A weight's stored rows in order: (stored, first row, end row) of each block."""
    n_rows, *inputs = weight.shape
    step = CHUNK_WEIGHTS // (inputs[0] if inputs else 1) // ROW_MULTIPLE * ROW_MULTIPLE
    step = max(step, ROW_MULTIPLE)
    tile_rows = weight.format.tile_rows
    assert step % tile_rows == 0, weight.format
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        yield weight.data[start // tile_rows : -(-stop // tile_rows)], start, stop


def _convert_block(
    weight: Weight, stored: Array, start: int, stop: int, target: Format, quantize: Quantize
) -> Array:
    if target == weight.format:
        if not target.is_tiled:
            _check_finite(_finite(stored, target), weight.name, start)
        return stored
    x = weight.format.dequantize(stored, (stop - start, *weight.shape[1:]))
    _check_finite(np.isfinite(x), weight.name, start)
    with np.errstate(over="ignore"):  # reported below, with its place
        data = target.quantize(x) if x.ndim == 1 else quantize(x, target)
    if target.dtype == np.float16 and not (finite := np.isfinite(data)).all():
        row = start + int(np.argwhere(~finite)[0, 0])
        raise CheckpointError(
            f"{weight.name}: expected weights up to 65504 for f16, found a larger one in row {row}; convert to bf16"
        )
    return data


def _finite(stored: Array, row: Format) -> NDArray[np.bool_]:
    """Which plain numbers are finite, without widening them."""
    if row == BF16:
        return (stored & np.uint16(0x7F80)) != np.uint16(0x7F80)  # an exponent of all ones is inf or NaN
    return np.isfinite(stored)


def _check_finite(finite: NDArray[np.bool_], name: str, first_row: int) -> None:
    if not finite.all():
        row = first_row + int(np.argwhere(~finite)[0, 0])
        raise CheckpointError(f"{name}: expected finite weights, found NaN or infinity in row {row}; is the download whole?")
