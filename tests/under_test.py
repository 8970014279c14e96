"""What fixtures of tests/evaluate make. Not in its conftest.py: a package of others is called `evaluate`, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from octuor.evaluate.subject import Subject

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], Path]
Says = Callable[[str], Subject]
