"""A text in lines, each token on its expert's colour, drawn with matplotlib in a font of one width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from octuor.routing.colours import INK, expert_tint
from octuor.routing.values import Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT = "DejaVu Sans Mono"  # comes with matplotlib
SIZE = 7.2  # points: at any multiple of 50 dots an inch a letter is a whole number of dots wide, as hinting makes it
WIDTH = 1.04 * 1233 / 2048  # a cell's over the font's size: a letter's, from the font's table of widths, and a little
LINE_HEIGHT = 1.6  # of the font's size

Line = list[tuple[int, int, str]]  # token, column, what of it stands in this line


def text_size(n_lines: int, width: int) -> tuple[float, float]:
    """Width and height in inches that axes must have for draw_text."""
    return width * SIZE * WIDTH / 72, max(n_lines, 1) * SIZE * LINE_HEIGHT / 72


def draw_text(axes: Axes, routing: Routing, rows: Sequence[Line], layer: int, width: int) -> None:
    """Lines of a text, each token on its first expert's tint, in axes of text_size."""
    from matplotlib.collections import PolyCollection

    axes.set_xlim(0, width)
    axes.set_ylim(max(len(rows), 1), 0)
    axes.axis("off")
    boxes, tints = [], []
    for y, row in enumerate(rows):
        for token, x, text in row:
            end = x + len(text)
            boxes.append([(x, y + 0.06), (end, y + 0.06), (end, y + 0.94), (x, y + 0.94)])
            tints.append(expert_tint(int(routing.experts[token, layer, 0])))
            word = text.lstrip()  # placed one by one, for hinting may make letters a little wider than cells
            if word:
                at = end - len(word)
                axes.text(at, y + 0.7, word, family=FONT, fontsize=SIZE, color=INK, parse_math=False)
    axes.add_collection(PolyCollection(boxes, facecolors=tints, edgecolors="white", linewidths=0.5, clip_on=False))


def broken(routing: Routing, width: int) -> list[Line]:
    """A text in lines of `width` characters at most, but for the sign of a line's end."""
    known = _characters()
    lines: list[Line] = [[]]
    for token, piece in enumerate(routing.pieces):
        for n, part in enumerate(piece.split("\n")):
            text = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in part.replace("\t", "    "))
            if n:
                lines[-1].append((token, _end(lines[-1]), "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"))
                lines.append([])
            if text and _end(lines[-1]) + len(text) > width:
                _break(lines, at_word=not text.startswith(" "))
                if not lines[-1] and text.strip():
                    text = text.removeprefix(" ")
            while text:
                at = _end(lines[-1])
                lines[-1].append((token, at, text[: width - at]))
                text = text[width - at :]
                if text:
                    lines.append([])
    return lines


def _end(line: Line) -> int:
    return line[-1][1] + len(line[-1][2]) if line else 0


def _break(lines: list[Line], *, at_word: bool) -> None:
    """Begin a new line; with the word that ends the last one, if it goes on and is not all there is."""
    last = lines[-1]
    starts = [n for n, (_, _, text) in enumerate(last) if text.startswith(" ") and text.strip()] if at_word else []
    if not starts or not starts[-1]:
        lines.append([])
        return
    word = last[starts[-1] :]
    del last[starts[-1] :]
    lines.append([])
    for token, _, text in word:
        lines[-1].append((token, _end(lines[-1]), text if lines[-1] else text.removeprefix(" ")))


def _characters() -> set[int]:
    """Those that the font can show."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return set(FT2Font(findfont(FONT)).get_charmap())
