"""The Mixtral paper's figures of routing, for any model and texts, with matplotlib (the plot extra).

Source: Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088, Figures 7, 8 and 10.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from octuor.errors import BackendError, RequestError
from octuor.routing.coloured_text import broken, draw_text, text_size
from octuor.routing.colours import INK, LINES, expert_tint
from octuor.routing.tally import Tally
from octuor.routing.values import Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOFT = "#8894a5"
MOST_LINES = 40  # of one text


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
        uniform = axes.axhline(100 / n_experts, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(f"layer {layer}", loc="left", fontsize=10, fontweight="bold")
        axes.set_ylabel("% of tokens'\nassignments")
        axes.set_xlim(-0.6, n_experts - 0.4)
        _quiet(axes)
    uniform.set_label("uniform")
    panels[-1].set_xticks(at, [str(expert) for expert in range(n_experts)])
    panels[-1].set_xlabel("expert (first or second choice)" if tallies[0].n_choices == 2 else "expert")
    _small(panels[-1])
    _legend(figure, panels[-1], len(tallies) + 1)
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
    _legend(figure, panels[0], len(tallies))
    return figure


def plot_text(blocks: Sequence[Block], layers: Sequence[int], *, width: int = 46) -> Figure:
    """Figure 8: texts coloured by each token's first expert, a column a layer.

    width  characters of a line
    """
    from matplotlib.figure import Figure

    lines = [broken(block.routing, width) for block in blocks]
    each, gap = text_size(1, width)[0], 0.25
    heights = [text_size(len(rows), width)[1] for rows in lines]
    figure = Figure(figsize=(gap + (each + gap) * len(layers), sum(heights) + 0.34 * len(blocks) + 0.4), dpi=120)
    top = 0.0
    for block, rows, height in zip(blocks, lines, heights, strict=True):
        for column, layer in enumerate(layers):
            axes = _placed(figure, gap + (each + gap) * column, top + 0.28, each, height)
            draw_text(axes, block.routing, rows, layer, width)
            _head(axes, f"{_plain(block.name)}, layer {layer}")
        top += height + 0.34
    _expert_legend(figure, blocks[0].routing.n_experts)
    return figure


def plot_routing(routing: Routing, layers: Sequence[int] | None) -> Figure:
    """See Routing.plot."""
    check_matplotlib()
    layers = default_layers(routing.n_layers) if layers is None else list(layers)
    check_layers(layers, routing.n_layers)
    if not layers or not len(routing):
        raise RequestError("plot: expected a layer and a token at least, found none")
    from matplotlib.figure import Figure

    width, gap, upper = 46, 0.25, 3.6
    rows = broken(routing, width)[:MOST_LINES]
    each, height = text_size(len(rows), width)
    total = max(gap + (each + gap) * len(layers), 9.0)
    figure = Figure(figsize=(total, upper + height + 0.75), dpi=120)
    draw_load(_placed(figure, 0.6, 0.35, total / 2 - 0.9, upper - 0.95), routing)
    axes = _placed(figure, total / 2 + 0.85, 0.35, total / 2 - 1.1, upper - 0.95)
    tally = Tally.of(routing)
    for choices in range(1, min(tally.n_choices, 2) + 1):
        colour = LINES[4] if choices == 1 else LINES[5]
        _line(axes, tally, choices, colour, "first choice" if choices == 1 else "first or second choice")
        _random(axes, tally, choices)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of neighbouring tokens\nwith the same expert", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for column, layer in enumerate(layers):
        axes = _placed(figure, gap + (each + gap) * column, upper + 0.25, each, height)
        draw_text(axes, routing, rows, layer, width)
        _head(axes, f"layer {layer}")
    _expert_legend(figure, routing.n_experts)
    return figure


def drawn(figure: Figure, kind: str) -> bytes:
    """A figure as "png" or "svg", the same bytes for the same figure."""
    import matplotlib as mpl

    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "octuor"}):
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


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
    axes.axhline(rate, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="_random")
    axes.annotate(
        f"random: {rate:.3g} %", (1, rate), xycoords=("axes fraction", "data"), xytext=(-2, 3),
        textcoords="offset points", ha="right", fontsize=8, color=INK,
    )  # fmt: skip


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


def _placed(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the left and from the top: letters and boxes must agree to the point."""
    whole_width, whole_height = figure.get_size_inches()
    place = (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    return figure.add_axes(place)


def _head(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=8.5, fontweight="bold", pad=3)


def _expert_legend(figure: Figure, n_experts: int) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=expert_tint(expert), label=f"expert {expert}") for expert in range(n_experts)]
    figure.legend(handles=patches, loc="lower center", ncols=n_experts, fontsize=8, frameon=False)


def _domain_colours(n: int) -> list[str]:
    if n <= len(LINES):
        return [LINES[at] for at in (4, 5, 2, 0, 1, 6, 7, 3)[:n]]  # yellow, which is faint in lines, last
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](share)) for share in np.linspace(0, 0.95, n)]


def _plain(text: str) -> str:
    """Text that is shown as it is: matplotlib would read formulas between dollars."""
    return text.replace("$", r"\$")
