"""A checkpoint with an adapter's changes in its weights: to convert, export or run as one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.peft import read_adapter
from octuor.errors import CheckpointError
from octuor.quant.changed import A, B, Changed
from octuor.weights import Weight


def merge(checkpoint: Checkpoint, adapter: Path) -> Checkpoint:
    """The checkpoint with each weight that the adapter changes read as changed; nothing is computed until it is.

    Raises CheckpointError or ConfigError where the adapter is not one of such a model.
    """
    if not adapter.is_dir():
        raise CheckpointError(f"{adapter}: expected an adapter's folder, found none; name what peft or tune wrote")
    changes = read_adapter(adapter, checkpoint.config).changes

    def load(name: str) -> Weight:
        weight = checkpoint.load(name)
        change = changes.get(name)
        if change is None:
            return weight
        parts = {**weight.parts, A: change.a, B: change.b}
        return replace(weight, format=Changed(weight.format, change.scale), parts=parts)

    note = f"the adapter {adapter} is merged into {len(changes)} weights"
    return replace(checkpoint, load=load, notes=(*checkpoint.notes, note))
