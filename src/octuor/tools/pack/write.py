"""Writing the pack layer by layer, so that a process that is killed goes on at the last layer that was whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from octuor.checkpoint.files import drop_pages
from octuor.checkpoint.pack import PackInParts
from octuor.ops.native import NativeOps
from octuor.quant import Format
from octuor.quant.base import Array
from octuor.tools.convert import Progress, convert_block, row_blocks
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.walk import F32Array, Source
from octuor.weights import weight_shapes

WRITTEN = "written"  # stages, in the journal


def stages(source: Source) -> list[list[str]]:
    """Weights that are written together: what lies outside the layers, then layer by layer."""
    found: list[list[str]] = [[] for _ in range(source.config.n_layers + 1)]
    for name, _ in weight_shapes(source.config):
        found[int(name.split(".")[1]) + 1 if name.startswith("layers.") else 0].append(name)
    return found


def write_layers(
    source: Source,
    ops: NativeOps,
    formats: Mapping[str, Format],
    importance: Mapping[str, F32Array],
    file: PackInParts,
    journal: Journal,
    progress: Progress | None = None,
) -> None:
    """Quantize and write every weight that the journal does not know as written.

    progress  called after each block of rows with bytes of the source done and in all
    """
    work = stages(source)
    sizes = {name: source.weight(name).nbytes for names in work for name in names}
    total, done = sum(sizes.values()), 0
    first = (journal.value(WRITTEN) or 0) if file.resumed else 0

    def count(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(done, total)

    for n, names in enumerate(work):
        if n < first:
            count(sum(sizes[name] for name in names))
            continue
        for name in names:
            file.write(name, quantized_pieces(source, ops, name, formats[name], importance.get(name), count))
        file.sync()
        journal.note(WRITTEN, n + 1)


def quantized_pieces(
    source: Source,
    ops: NativeOps,
    name: str,
    target: Format,
    importance: F32Array | None,
    count: Callable[[int], None],
) -> Iterator[Array]:
    """A weight's storage in the target format, block by block of rows; count is told the source's bytes."""

    def quantize(x: NDArray[Any], row: Format) -> Array:
        return ops.quantize(x, row, importance)

    first_row = 0
    for block in row_blocks(source.weight(name)):
        yield convert_block(block, first_row, target, quantize, ops.dequantize)
        for array in (block.data, *block.parts.values()):
            drop_pages(array)
        first_row += block.shape[0]
        count(block.nbytes)
