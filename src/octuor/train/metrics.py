"""metrics.jsonl: what a run says of its steps, one line each."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class MetricsFile:
    """A file of one line a step, cut back to the step a run resumes from so that no step stands in it twice."""

    def __init__(self, path: Path, steps_done: int) -> None:
        kept = whole_lines(path)[:steps_done] if path.is_file() else []
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: DataclassInstance) -> None:
        """Add one step."""
        self._file.write(json.dumps(asdict(metrics)) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Have the disk hold all lines, as before a state is saved that comes after them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def whole_lines(path: Path) -> list[str]:
    """All lines of a metrics.jsonl; a last one that was cut by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
