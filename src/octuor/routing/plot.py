"""The Mixtral paper's figures of routing, for any model and texts, with matplotlib (the plot extra).

Source: Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088, Figures 7, 8 and 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from octuor.errors import BackendError, RequestError
from octuor.routing.colours import EXPERTS, INK, expert_tint
from octuor.routing.tally import Tally
from octuor.routing.values import Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

MONO = "DejaVu Sans Mono"  # comes with matplotlib
SOFT = "#8894a5"
MONO_ASPECT = 0.602  # a character's width over the font's size
LINE_HEIGHT = 1.55  # of the font's size


@dataclass(frozen=True)
class Block:
    """A text to be coloured. name: shown beside it."""

    name: str
    routing: Routing


def check_matplotlib() -> None:
    """Raise BackendError where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise BackendError('plot: expected the library matplotlib, found none; pip install "octuor[plot]"')


def default_layers(n_layers: int) -> tuple[int, ...]:
    """The first, the middle and the last: 0, 15 and 31 of 32, as in the paper."""
    return tuple(sorted({0, (n_layers - 1) // 2, n_layers - 1}))


def check_layers(layers: Sequence[int], n_layers: int) -> None:
    """Raise RequestError on a layer that the model does not have."""
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise RequestError(f"layers: expected 0 to {n_layers - 1}, found {layer}")


def plot_experts(tallies: Sequence[Tally], layers: Sequence[int]) -> Figure:
    """Figure 7: the share of each expert by domain, a panel a layer, beside the uniform share."""
    figure = _figure(9.5, 0.9 + 2.1 * len(layers))
    panels = figure.subplots(len(layers), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    n_experts = tallies[0].n_experts
    width = 0.84 / len(tallies)
    at = np.arange(n_experts)
    for axes, layer in zip(panels, layers, strict=True):
        for n, (tally, colour) in enumerate(zip(tallies, _domain_colours(len(tallies)), strict=True)):
            left = at - 0.42 + (n + 0.5) * width
            axes.bar(left, 100 * tally.share()[layer], width * 0.92, color=colour, label=_plain(tally.name))
        axes.axhline(100 / n_experts, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="uniform")
        axes.set_title(f"layer {layer}", loc="left", fontsize=10, fontweight="bold")
        axes.set_ylabel("% of tokens'\nassignments")
        _quiet(axes)
    panels[-1].set_xticks(at, [str(expert) for expert in range(n_experts)])
    panels[-1].set_xlabel("expert (first or second choice)" if tallies[0].n_choices == 2 else "expert")
    _legend(figure, panels[0], len(tallies) + 1)
    return figure


def plot_repetition(tallies: Sequence[Tally]) -> Figure:
    """Figure 10: neighbouring tokens with the same expert, over layers, by domain, beside the random rates."""
    n_panels = min(tallies[0].n_choices, 2)
    figure = _figure(1 + 4.6 * n_panels, 4.2)
    panels = figure.subplots(1, n_panels, squeeze=False)[0]
    for choices, axes in enumerate(panels, start=1):
        for tally, colour in zip(tallies, _domain_colours(len(tallies)), strict=True):
            _line(axes, tally, choices, colour, _plain(tally.name))
        _random(axes, tallies[0], choices)
        axes.set_title("first choice" if choices == 1 else "first or second choice", loc="left", fontsize=10)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("% of neighbouring tokens\nwith the same expert")
    _legend(figure, panels[0], len(tallies) + 1)
    return figure


def plot_text(blocks: Sequence[Block], layers: Sequence[int], *, width: int = 46) -> Figure:
    """Figure 8: texts coloured by each token's first expert, a column a layer.

    width  characters of a line
    """
    size = 7.5
    lines = [_lines(block.routing, width) for block in blocks]
    heights = [len(rows) + 1.6 for rows in lines]
    column = (width + 3) * size * MONO_ASPECT / 72
    figure = _figure(column * len(layers), 0.65 + sum(heights) * size * LINE_HEIGHT / 72)
    grid = figure.subplots(len(blocks), len(layers), squeeze=False, gridspec_kw={"height_ratios": heights})
    for block, rows, row_axes in zip(blocks, lines, grid, strict=True):
        for layer, axes in zip(layers, row_axes, strict=True):
            draw_text(axes, block.routing, rows, layer, width, size)
            title = f"{_plain(block.name)}, layer {layer}"
            axes.set_title(title, loc="left", fontsize=8.5, fontweight="bold", pad=3)
    _expert_legend(figure, blocks[0].routing.n_experts)
    return figure


def plot_routing(routing: Routing, layers: Sequence[int] | None) -> Figure:
    """See Routing.plot."""
    check_matplotlib()
    layers = default_layers(routing.n_layers) if layers is None else list(layers)
    check_layers(layers, routing.n_layers)
    if not layers or not len(routing):
        raise RequestError("plot: expected a layer and a token at least, found none")
    width, size = 46, 7.5
    rows = _lines(routing, width)[:40]
    column = (width + 3) * size * MONO_ASPECT / 72
    bottom = (len(rows) + 1.6) * size * LINE_HEIGHT / 72
    figure = _figure(max(column * len(layers), 8.5), 4.1 + bottom)
    upper, lower = figure.subfigures(2, 1, height_ratios=(3.4, bottom + 0.7), squeeze=False)[:, 0]
    left, right = upper.subplots(1, 2)
    draw_load(left, routing)
    tally = Tally.of(routing)
    for choices in range(1, min(tally.n_choices, 2) + 1):
        colour = EXPERTS[4] if choices == 1 else EXPERTS[5]
        _line(right, tally, choices, colour, "first choice" if choices == 1 else "first or second choice")
        _random(right, tally, choices)
    right.set_ylim(bottom=0)
    right.set_ylabel("% of neighbouring tokens\nwith the same expert")
    right.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    panels = lower.subplots(1, len(layers), squeeze=False)[0]
    for layer, axes in zip(layers, panels, strict=True):
        draw_text(axes, routing, rows, layer, width, size)
        axes.set_title(f"layer {layer}", loc="left", fontsize=8.5, fontweight="bold", pad=3)
    _expert_legend(lower, routing.n_experts)
    return figure


def draw_load(axes: Axes, routing: Routing) -> None:
    """A map of layers by experts: the share of tokens' assignments that each expert has."""
    from matplotlib.ticker import MaxNLocator

    share = 100 * routing.load() / max(len(routing) * routing.experts.shape[2], 1)
    image = axes.imshow(share, cmap="cividis", aspect="auto", vmin=0)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    axes.set_xticks(range(routing.n_experts))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _small(axes)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(f"% of assignments (uniform: {100 / routing.n_experts:.4g})", fontsize=8)


Line = list[tuple[int, int, str]]  # token, column, what of it stands in this line


def draw_text(axes: Axes, routing: Routing, rows: Sequence[Line], layer: int, width: int, size: float) -> None:
    """Lines of a text, each token on its first expert's tint."""
    from matplotlib.patches import Rectangle

    axes.set_xlim(0, width)
    axes.set_ylim(len(rows), 0)
    axes.axis("off")
    for y, row in enumerate(rows):
        for token, x, text in row:
            tint = expert_tint(int(routing.experts[token, layer, 0]))
            axes.add_patch(Rectangle((x, y + 0.06), len(text), 0.88, facecolor=tint, edgecolor="white", linewidth=0.5))
            axes.text(
                x, y + 0.7, text, family=MONO, fontsize=size, color=INK, va="baseline", ha="left", parse_math=False
            )


def _lines(routing: Routing, width: int) -> list[Line]:
    """A text in lines of at most `width` characters, broken where it breaks and where it must."""
    known = _characters()
    lines: list[Line] = [[]]
    at = 0
    for token, piece in enumerate(routing.pieces):
        for n, part in enumerate(piece.split("\n")):
            text = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in part.replace("\t", "    "))
            if n:
                lines[-1].append((token, at, "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"))
                lines.append([])
                at = 0
            if at + len(text) > width and at:
                lines.append([])
                at, text = 0, text
            while text:
                room = width - at
                lines[-1].append((token, at, text[:room]))
                at, text = at + len(text[:room]), text[room:]
                if text:
                    lines.append([])
                    at = 0
    return lines


def _characters() -> set[int]:
    """Those that the font can show."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return set(FT2Font(findfont(MONO)).get_charmap())


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _line(axes: Axes, tally: Tally, choices: int, colour: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    layers = np.arange(tally.n_layers)
    axes.plot(
        layers, 100 * tally.repetition(choices), color=colour, linewidth=1.6, marker="o", markersize=3, label=label
    )
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _quiet(axes)


def _random(axes: Axes, tally: Tally, choices: int) -> None:
    rate = 100 * tally.random_repetition(choices)
    axes.axhline(rate, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"random: {rate:.3g} %")


def _quiet(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=SOFT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    _small(axes)


def _small(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9)


def _legend(figure: Figure, axes: Axes, n: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(n, 7), fontsize=8, frameon=False)


def _expert_legend(figure: FigureBase, n_experts: int) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=expert_tint(expert), label=f"expert {expert}") for expert in range(n_experts)]
    figure.legend(handles=patches, loc="outside lower center", ncols=n_experts, fontsize=8, frameon=False)


def _domain_colours(n: int) -> list[str]:
    if n <= len(EXPERTS):
        return list(EXPERTS[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](share)) for share in np.linspace(0, 0.95, n)]


def _plain(text: str) -> str:
    """Text that is shown as it is: matplotlib would read formulas between dollars."""
    return text.replace("$", r"\$")
