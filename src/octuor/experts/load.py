"""From a checkpoint and a limit of memory to weights that a forward pass can use.

Weights outside the experts are read into memory of our own; experts get a Store. Nothing is left in memory of what
opening the files has touched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event

from octuor.checkpoint.base import Checkpoint, contiguous
from octuor.checkpoint.files import MappedFile, drop_pages
from octuor.checkpoint.memory import huge_memory
from octuor.errors import CheckpointError
from octuor.experts.arena import Arena
from octuor.experts.budget import Budget, Shape
from octuor.experts.layout import Image, find_image
from octuor.experts.policy import Usage
from octuor.experts.reader import Job, Reader
from octuor.experts.store import LayerExperts, OnFill, Store
from octuor.quant import Format
from octuor.quant.base import Storage
from octuor.weights import Leaf, Weight, Weights, build, weight_shapes

PARTS = ("gate", "up", "down")


def load_streamed(
    checkpoint: Checkpoint,
    put: Callable[[Weight], Leaf],
    divide: Callable[[Shape], Budget],
    runs_in_place: Callable[[Storage], bool],
    *,
    cache_itemsize: int,
    on_load: OnFill | None = None,
) -> tuple[Weights, Store, Budget]:
    """Read what every token needs, and begin to read experts until memory is full.

    divide         makes the budget, when the weights outside the experts are in memory
    runs_in_place  whether `put` of a matrix only notes where it lies; experts are put before they are read
    on_load        called with bytes of experts read and to be read, from other threads

    Raises what divide does, and CheckpointError where a file cannot be read or holds experts in a way that has to be
    converted first. Threads that read end with the store.
    """
    config, files = checkpoint.config, checkpoint.files
    images = [
        [_expert_image(checkpoint, runs_in_place, n, e) for e in range(config.n_experts)]
        for n in range(config.n_layers)
    ]
    arena = Arena([image.n_bytes for row in images for image in row])
    reader = Reader([file.path for file in files])
    try:
        leaves = _read_dense(checkpoint, put, reader)
        _drop(files)
        is_tiled = all(_is_tiled(weight) for row in images for image in row for weight in image.weights)
        sizes = tuple(arena.room(image.n_bytes) for row in images for image in row)
        budget = divide(Shape(config, cache_itemsize, is_tiled, sizes))
        usage = Usage(config.n_layers, config.n_experts, config.n_experts_per_token)
        store = Store(images, arena, reader, usage, budget.pool)
    except BaseException:
        reader.close()
        raise
    weakref.finalize(store, reader.close)
    weights = _tree(checkpoint, images, arena, put, leaves, store)
    store.fill(on_load)
    return weights, store, budget


def _is_tiled(weight: Weight) -> bool:
    return isinstance(weight.format, Format) and weight.format.is_tiled


def _expert_image(checkpoint: Checkpoint, runs_in_place: Callable[[Storage], bool], layer: int, number: int) -> Image:
    weights = [checkpoint.load(f"layers.{layer}.experts.{number}.{part}") for part in PARTS]
    in_place = all(runs_in_place(weight.format) and not weight.parts for weight in weights)
    image = find_image(weights, checkpoint.files) if in_place else None
    if image is None:
        raise CheckpointError(
            f"{checkpoint.source}: expected experts that lie in the file as they are used, for a limit of memory; "
            f"{weights[0].name} ({weights[0].format.name}) does not; make a pack of it with `octuor convert` first"
        )
    return image


def _read_dense(checkpoint: Checkpoint, put: Callable[[Weight], Leaf], reader: Reader) -> dict[str, Leaf]:
    """Leaves of all weights outside the experts; what a checkpoint had to convert is in memory of its own already."""
    names = [name for name, _ in weight_shapes(checkpoint.config) if ".experts." not in name]
    leaves: dict[str, Leaf] = {}
    mapped: list[Weight] = []
    for name in names:
        weight = checkpoint.load(name)
        is_turned = isinstance(weight.format, Format) and not weight.data.flags.c_contiguous  # kernels want a copy
        if is_turned or find_image([weight], checkpoint.files) is None:
            leaves[name] = put(contiguous(weight))
            _drop(checkpoint.files)
        else:
            mapped.append(weight)
    image = find_image(mapped, checkpoint.files)
    assert image is not None
    memory = huge_memory(image.n_bytes)
    done = Event()
    job = Job(image.segments, memory, lambda _: done.set())
    reader.read(job, urgent=True)
    done.wait()
    if job.error is not None:
        raise job.error
    memory.flags.writeable = False
    return leaves | {weight.name: put(weight) for weight in image.over(memory)}


def _drop(files: Sequence[MappedFile]) -> None:
    for file in files:
        drop_pages(file.bytes)


def _tree(
    checkpoint: Checkpoint, images: Sequence[Sequence[Image]], arena: Arena, put: Callable[[Weight], Leaf],
    leaves: dict[str, Leaf], store: Store,
) -> Weights:  # fmt: skip
    begins = iter(arena.begins)
    found = dict(leaves)
    for row in images:
        for image in row:
            begin = next(begins)
            for weight in image.over(arena.bytes[begin : begin + image.n_bytes]):
                found[weight.name] = put(weight)
    tree = build(checkpoint.config, found.__getitem__)
    layers = tuple(replace(layer, experts=LayerExperts(store, n, layer.experts)) for n, layer in enumerate(tree.layers))
    return replace(tree, layers=layers)
