"""Where an analysis goes: pictures, tables and a page, each checked before anything runs and written whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


def write_outputs(analysis: Analysis, outputs: Outputs, layers: Sequence[int]) -> list[Path]:
    """Write them, over any that are there, and say which. Raises CheckpointError where one cannot be written."""
    written = []
    for path, data in _files(analysis, outputs, layers):
        with replacing(path, len(data), overwrite=True) as file:
            file.write(data)
        written.append(path)
    return written


def _files(analysis: Analysis, outputs: Outputs, layers: Sequence[int]) -> Iterator[tuple[Path, bytes]]:
    for path in (outputs.png, outputs.svg):
        if path is not None:
            figures = (
                plot_experts(analysis.tallies, layers), plot_repetition(analysis.tallies),
                plot_text(analysis.blocks, layers),
            )  # fmt: skip
            for part, figure in zip(PARTS, figures, strict=True):
                yield _named(path, part), drawn(figure, path.suffix[1:].lower())
    if outputs.csv is not None:
        texts = (experts_csv(analysis, layers), repetition_csv(analysis), text_csv(analysis))
        for part, text in zip(PARTS, texts, strict=True):
            yield _named(outputs.csv, part), text.encode()
    if outputs.html is not None:
        yield outputs.html, routing_page(analysis, layers).encode()


def _named(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}-{part}{path.suffix}")
