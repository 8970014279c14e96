"""A run's metrics as TensorBoard's event files, by tensorboardX."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Events:
    """A folder of event files; steps after `steps_done`, which a stopped run may have left, no longer count."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        from tensorboardX import SummaryWriter

        # without a name of its own a file replaces one of the same second
        suffix = f".{steps_done:09d}"
        self._writer = SummaryWriter(str(folder), purge_step=steps_done + 1, filename_suffix=suffix)

    def write(self, metrics: DataclassInstance) -> None:
        """Add one step: a curve for each number of it."""
        values = asdict(metrics)
        step = values.pop("step")
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
