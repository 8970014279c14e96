"""An analysis as one page that needs nothing else: figures, tables, and texts that tell of each token."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from octuor.routing.colours import EXPERTS, INK, expert_tint
from octuor.routing.plot import Block, drawn, plot_experts, plot_repetition
from octuor.routing.tally import Tally
from octuor.tools.routing.analysis import Analysis
from octuor.tools.routing.tables import overlap_name

STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))
HINT = "Point at a token, or choose a text with Tab and walk with the arrow keys."
PAPER = "Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088"


def routing_page(analysis: Analysis, layers: Sequence[int]) -> str:
    """The whole page; no text of others is ever markup in it, and it loads nothing."""
    tallies = analysis.tallies
    n_layers, n_experts = tallies[0].n_layers, tallies[0].n_experts
    tokens = sum(tally.n_tokens for tally in tallies)
    about = (
        f"{n_layers} layers of {n_experts} experts, {tallies[0].n_choices} of them at work on each token; "
        f"{tokens:,} tokens of {len(tallies)} kinds of text."
    )
    body = "\n".join(
        (
            f"<h1>Routing of {escape(analysis.model)}</h1>\n<p>{escape(about)}</p>",
            '<p><a href="#texts">texts</a> · <a href="#experts">experts</a> · <a href="#repetition">repetition</a></p>',
            _texts(analysis.blocks, layers, n_layers, n_experts),
            '<h2 id="experts">Which experts play which texts</h2>\n' + _experts(tallies, layers),
            '<h2 id="repetition">Neighbouring tokens with the same expert</h2>\n' + _repetition(tallies),
            f'<p class="note">The figures are those of section 5 of {PAPER}: figures 8, 7, and 10 with table 5.</p>',
            f'<div id="about" role="status">{HINT}</div>',
            f'<script type="application/json" id="data">{_data(analysis.blocks, n_layers)}</script>',
            f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        )
    )
    title = escape(f"Routing of {analysis.model}")
    tints = "".join(f".e{n} {{ background: {expert_tint(n)}; color: {INK}; }}\n" for n in range(len(EXPERTS)))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE.read_text(encoding='utf-8')}{tints}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _texts(blocks: Sequence[Block], layers: Sequence[int], n_layers: int, n_experts: int) -> str:
    """Legend, layer choosers, and each text once for each column; right without the script, too."""
    legend = " ".join(f'<span class="tok e{n % len(EXPERTS)}">&nbsp;expert {n}&nbsp;</span>' for n in range(n_experts))
    numbers = '<label><input type="checkbox" id="numbers"> numbers</label>'
    selects = "".join(_select(column, layer, n_layers) for column, layer in enumerate(layers))
    lines = [
        '<h2 id="texts">Each token in the colour of its first expert</h2>',
        f'<p class="legend">{legend} {numbers}</p>',
        f'<div style="--columns: {len(layers)}">',
        f'<div class="columns layers">{selects}</div>',
    ]
    for n, block in enumerate(blocks):
        columns = "".join(_column(block, n, column, layer) for column, layer in enumerate(layers))
        lines.append(f'<h3>{escape(block.name)}</h3><div class="columns">{columns}</div>')
    return "\n".join([*lines, "</div>"])


def _select(column: int, layer: int, n_layers: int) -> str:
    options = "".join(f"<option{' selected' if n == layer else ''}>{n}</option>" for n in range(n_layers))
    return f'<label>layer <select data-column="{column}" autocomplete="off">{options}</select></label>'


def _column(block: Block, n: int, column: int, layer: int) -> str:
    tokens = []
    for i, piece in enumerate(block.routing.pieces):
        expert = int(block.routing.experts[i, layer, 0])
        text = escape(piece).replace("\n", '<span class="mark">↵</span>\n') if piece else '<span class="mark">▫</span>'
        tokens.append(f'<span class="tok e{expert % len(EXPERTS)}" data-i="{i}" data-e="{expert}">{text}</span>')
    label = escape(f"{block.name}, column {column + 1}")
    return (
        f'<div class="text" tabindex="0" role="group" aria-label="{label}" data-block="{n}" data-column="{column}">'
        + "".join(tokens) + "</div>"
    )  # fmt: skip


def _data(blocks: Sequence[Block], n_layers: int) -> str:
    """What the script knows: weights in thousandths. `<` is written so that nothing in it can end the element."""
    found: list[dict[str, Any]] = []
    for block in blocks:
        routing = block.routing
        alternatives = [
            [[piece, round(float(x), 3)] for piece, x in zip(pieces, logprobs, strict=True) if np.isfinite(x)]
            for pieces, logprobs in zip(routing.alternatives.pieces, routing.alternatives.logprobs, strict=True)
        ]
        found.append(
            {
                "pieces": routing.pieces,
                "experts": routing.experts.tolist(),
                "weights": np.rint(1000 * routing.weights).astype(int).tolist(),
                "logprobs": [round(float(x), 3) if np.isfinite(x) else None for x in routing.logprobs],
                "alternatives": alternatives,
            }
        )
    text = json.dumps({"blocks": found, "nLayers": n_layers}, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _experts(tallies: Sequence[Tally], layers: Sequence[int]) -> str:
    note = (
        f'<p class="note">Share of all assignments, first and second choices alike; the dashed line is '
        f"{100 / tallies[0].n_experts:.4g} %, what each expert would have if they were drawn by lot.</p>"
    )
    head = ("domain", "layer", *(str(expert) for expert in range(tallies[0].n_experts)))
    rows = [
        (tally.name, str(layer), *(f"{100 * share:.1f} %" for share in tally.share()[layer]))
        for tally in tallies
        for layer in layers
    ]
    return note + _image(drawn(plot_experts(tallies, layers), "svg"), "share of experts by domain") + _table(head, rows)


def _repetition(tallies: Sequence[Tally]) -> str:
    first = tallies[0]
    choices = range(1, min(first.n_choices, 2) + 1)
    note = '<p class="note">The dashed lines are what experts drawn by lot would give.</p>'
    rows = [
        (tally.name, overlap_name(n), *(f"{100 * share:.1f} %" for share in tally.repetition(n)))
        for n in choices
        for tally in tallies
    ]
    rows += [
        ("random", overlap_name(n), *[f"{100 * first.random_repetition(n):.1f} %"] * first.n_layers) for n in choices
    ]
    head = ("domain", "choice", *(f"layer {layer}" for layer in range(first.n_layers)))
    return note + _image(drawn(plot_repetition(tallies), "svg"), "repetition by domain and layer") + _table(head, rows)


def _image(svg: bytes, label: str) -> str:
    """A drawing inside the page; its numbers are in the table beside it."""
    return f'<p><img alt="{escape(label)}" src="data:image/svg+xml;base64,{b64encode(svg).decode()}"></p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<details><summary>the numbers</summary><div class="scroll"><table>{"".join(lines)}</table></div></details>'
