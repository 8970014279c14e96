"""Where an analysis goes: pictures, tables and a page, each checked before anything runs and written whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from octuor.checkpoint.files import replacing
from octuor.errors import RequestError
from octuor.routing.plot import check_matplotlib, drawn, plot_experts, plot_repetition, plot_text
from octuor.tools.routing.analysis import Analysis
from octuor.tools.routing.page import routing_page
from octuor.tools.routing.tables import experts_csv, repetition_csv, text_csv

PARTS = ("experts", "repetition", "text")


@dataclass(frozen=True)
class Outputs:
    """Files that are wanted. png, svg, csv: three each, x.png giving x-experts.png, x-repetition.png, x-text.png."""

    png: Path | None = None
    svg: Path | None = None
    csv: Path | None = None
    html: Path | None = None

    def check(self) -> None:
        """Raise, before anything runs, what would keep them from being written."""
        for path, suffix in ((self.png, ".png"), (self.svg, ".svg"), (self.csv, ".csv"), (self.html, ".html")):
            if path is None:
                continue
            if path.suffix.lower() != suffix:
                raise RequestError(f"--{suffix[1:]}: expected a file that ends in {suffix}, found {path}")
            if not path.parent.is_dir():
                raise RequestError(f"--{suffix[1:]}: expected the folder {path.parent}, found none; create it first")
        if self.png is not None or self.svg is not None or self.html is not None:
            check_matplotlib()


def write_outputs(
    analysis: Analysis,
    outputs: Outputs,
    layers: Sequence[int],
    *,
    on_file: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Write them, over any that are there, and say which. Raises CheckpointError where one cannot be written.

    on_file  called with a file's name before it is made, files done, and files in all
    """
    files = _files(analysis, outputs, layers)
    for done, (path, make) in enumerate(files.items()):
        if on_file is not None:
            on_file(path.name, done, len(files))
        data = make()
        with replacing(path, len(data), overwrite=True) as file:
            file.write(data)
    return list(files)


def _files(analysis: Analysis, outputs: Outputs, layers: Sequence[int]) -> dict[Path, Callable[[], bytes]]:
    """Files by their paths, in order, each with what makes it."""
    found: dict[Path, Callable[[], bytes]] = {}
    for path in (outputs.png, outputs.svg):
        if path is None:
            continue
        for part in PARTS:
            found[_named(path, part)] = partial(_picture, analysis, layers, part, path.suffix[1:].lower())
    if outputs.csv is not None:
        for part in PARTS:
            found[_named(outputs.csv, part)] = partial(_table, analysis, layers, part)
    if outputs.html is not None:
        found[outputs.html] = lambda: routing_page(analysis, layers).encode()
    return found


def _picture(analysis: Analysis, layers: Sequence[int], part: str, kind: str) -> bytes:
    if part == "experts":
        return drawn(plot_experts(analysis.tallies, layers), kind)
    if part == "repetition":
        return drawn(plot_repetition(analysis.tallies), kind)
    return drawn(plot_text(analysis.blocks, layers), kind)


def _table(analysis: Analysis, layers: Sequence[int], part: str) -> bytes:
    if part == "experts":
        return experts_csv(analysis, layers).encode()
    return (repetition_csv(analysis) if part == "repetition" else text_csv(analysis)).encode()


def _named(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}-{part}{path.suffix}")
