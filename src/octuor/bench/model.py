"""The model that is measured: a checkpoint, or random weights of a known geometry in memory.

Random weights are those of tools/synth.py: hidden states stay apart and all experts are met about equally. They
lie in memory of the process's own, for a file's pages may be taken away in the middle of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octuor.api import Model
from octuor.bench.cost import Sizes
from octuor.bench.memory import Arena, require_memory, room
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.memory import PageIn, read_resident
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.experts.store import Store
from octuor.generate import PREFILL_CHUNK
from octuor.ops.native import PROBE_BYTES, NativeOps
from octuor.quant.base import Array, Storage
from octuor.tools.convert import choose_formats
from octuor.tools.synth import RandomWeights, find_geometry
from octuor.weights import Weight, Weights, build, weight_shapes

CACHE_DTYPE = "f16"
SPARE_BYTES = PROBE_BYTES + (1 << 30)  # beside the weights: the bandwidth probe, then caches and activations

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class BenchModel:
    """A model with its backend, ready to run.

    name         a geometry's name, or the checkpoint's path
    is_random    whether its weights were drawn here
    formats      number formats of its matrices, most bytes first
    full_layers  layers of the geometry that this model has the first of; its own for a checkpoint
    load_s       seconds it took to open or make
    page_in      what reads a mapped checkpoint in the background; None: all is in memory
    store        what keeps experts under a limit of memory; None: there is no limit
    context      positions that a row may have; None: the config's
    chunk        tokens of a prompt in a pass
    """

    name: str
    is_random: bool
    formats: tuple[Storage, ...]
    config: ModelConfig
    full_layers: int
    ops: NativeOps
    weights: Weights
    sizes: Sizes
    load_s: float
    page_in: PageIn | None = None
    store: Store | None = None
    context: int | None = None
    chunk: int = PREFILL_CHUNK

    @property
    def room(self) -> int:
        """Positions that a row may have."""
        return self.config.max_seq_len if self.context is None else self.context


def open_model(
    path: str | Path,
    ops: NativeOps,
    *,
    resident: bool = False,
    memory: int | None = None,
    progress: Progress | None = None,
) -> BenchModel:
    """A pack or a checkpoint's folder as it runs elsewhere: mapped and read in the background.

    resident  copy it to memory of our own first, which no other program's needs can take away
    memory    bytes that the whole process may have: experts come and go, as in `octuor chat --memory`
    progress  called with bytes read and in all, from other threads too, where they are not in memory already

    Raises RequestError where both are asked for, or the limit is too small for the model.
    """
    if resident and memory is not None:
        raise RequestError("memory: expected a limit or --resident, found both; drop one of them")
    began = time.perf_counter()
    checkpoint = open_checkpoint(path)
    if resident:
        read_resident(checkpoint.files, progress)
    model = Model(checkpoint, ops, context=None, cache_dtype=CACHE_DTYPE, memory=memory, on_load=progress)
    page_in = None if resident or memory is not None else PageIn(checkpoint.files, progress)
    took = time.perf_counter() - began
    config = checkpoint.config
    formats = {name: checkpoint.get(name).format for name in checkpoint.names}
    n_bytes = {name: checkpoint.get(name).nbytes for name in checkpoint.names}
    sizes, used = Sizes.of(config, n_bytes), _of_matrices(formats, n_bytes)
    return BenchModel(
        str(path), False, used, config, config.n_layers, ops, model.weights, sizes, took, page_in, model.store,
        model.context, model.chunk,
    )  # fmt: skip


def random_model(
    geometry: str | ModelConfig,
    format_name: str,
    ops: NativeOps,
    *,
    n_layers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchModel:
    """Random weights of a geometry, a name in config.GEOMETRIES or a config, in memory.

    Raises ConfigError on an unknown geometry, FormatError on an unknown format, BackendError if they do not fit
    into the memory that is free.
    """
    began = time.perf_counter()
    config = find_geometry(geometry, n_layers)
    formats = choose_formats(config, format_name, {})
    shapes = dict(weight_shapes(config))
    sizes = {name: formats[name].n_bytes(shape) for name, shape in shapes.items()}
    total, done = sum(map(room, sizes.values())), 0
    require_memory(total + SPARE_BYTES, "use fewer --layers or a --format of fewer bits")
    arena = Arena(total)
    source = RandomWeights(config, seed, ops.quantize)
    found: dict[str, Weight] = {}
    with ThreadPoolExecutor(ops.threads) as pool:
        for name, shape in shapes.items():
            row, memory = formats[name], arena.take(sizes[name])
            places, at = [], 0
            for piece in source.pieces(name, shape, row):
                places.append((memory[at : at + piece.nbytes], piece))
                at += piece.nbytes
            list(pool.map(_copy, places))
            found[name] = Weight(memory.view(row.dtype).reshape(row.storage_shape(shape)), shape, row, name)
            done += room(sizes[name])
            if progress is not None:
                progress(done, total)
    weights = build(config, lambda name: ops.put(found[name]))
    took = time.perf_counter() - began
    label = geometry if isinstance(geometry, str) else "custom"
    full = find_geometry(geometry).n_layers
    used = _of_matrices(formats, sizes)
    return BenchModel(label, True, used, config, full, ops, weights, Sizes.of(config, sizes), took)


def _of_matrices(formats: Mapping[str, Storage], n_bytes: Mapping[str, int]) -> tuple[Storage, ...]:
    """Formats of the named weights without norms and routers, most bytes first."""
    total: dict[str, int] = {}
    for name, row in formats.items():
        if not name.endswith(("norm", "router")):
            total[row.name] = total.get(row.name, 0) + n_bytes[name]
    by_name = {row.name: row for row in formats.values()}
    return tuple(by_name[name] for name in sorted(total, key=lambda name: -total[name]))


def _copy(place: tuple[Array, Array]) -> None:
    memory, piece = place
    memory[:] = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
