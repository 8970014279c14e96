"""A routing as HTML that people look at: coloured text, layers by experts, repetition. Needs view.css and view.js.

For pages of their own and as a part of others; all that comes from a text or a model is escaped.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.routing.colours import expert_rules
from octuor.routing.values import Routing

# Signs that would act rather than show: they turn the text's direction, also that of what comes after.
THIN = "\u202f"  # a narrow space that no line is broken at
ACTING = {
    *range(0x20),
    *range(0x7F, 0xA0),
    0x200E,
    0x200F,
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
}
# As entities, so that a view is one line: what is between HTML and a browser, such as Markdown, changes no line.
ENTITIES = {"\n": '<i class="nl">&#10;</i>', "\t": "&#9;"}
WIDE = 16  # layers up to which a heat map's cells have room for their numbers on a phone too


@dataclass(frozen=True)
class Words:
    """What the view says, in one language; names in braces are filled in."""

    language: str = "en"
    decimal: str = "."
    layer: str = "Layer"
    first: str = "first"
    middle: str = "middle"
    last: str = "last"
    text: str = "The text, each token in the colour of its first expert"
    hint: str = (
        "Point at a token, tap it, or walk with the arrow keys: left and right to the next one, up and down by layers."
    )
    legend: str = "Share of each expert as first choice at this layer; press one to see its tokens alone"
    token: str = "token {number}, id {id}"
    experts_at: str = "Experts at layer {layer}"
    expert: str = "Expert {number}"
    strip: str = "first expert, layer by layer"
    probability: str = "Probability {share}; what might have stood here:"
    load: str = "Load: layers by experts"
    load_about: str = "Share of each layer's work that an expert has. If all had the same it would be {share}."
    load_cell: str = "Layer {layer}, expert {expert}: {share} of the work, {count} of {all}; first choice of {first}"
    uniform: str = "{share} if even"
    repetition: str = "Repetition between neighbouring tokens"
    repetition_about: str = "How often the next token goes to the same expert; dashed: what chance would give."
    repeated: str = "{kind} {share} (chance {chance})"
    one: str = "same first choice"
    two: str = "first or second choice in common"
    chance: str = "chance {share}"
    cut: str = "The last {shown} of {all} tokens are shown."

    def percent(self, share: float) -> str:
        """A share with one decimal, "12.5 %"; a dash for what is not known."""
        return "–" if np.isnan(share) else f"{100 * share:.1f}".replace(".", self.decimal) + f"{THIN}%"


ENGLISH = Words()


def view(
    routing: Routing, words: Words = ENGLISH, *, ids: str = "", shown: slice | None = None, most: int = 4096
) -> str:
    """All of it: layer, legend, text, load and repetition.

    ids    put before the id of each part ("observatory": observatory-text, -layer, -heat, -repetition); "": no ids
    shown  the tokens whose text is shown; load and repetition are of all. None: all
    most   tokens that are shown, the last ones; more make a browser slow
    """
    n_tokens, n_layers, n_chosen = routing.experts.shape
    start, stop, _ = (shown or slice(None)).indices(n_tokens)
    cut = max(start, stop - most)
    tokens = range(cut, stop)
    about = {
        "layers": n_layers,
        "experts": routing.n_experts,
        "chosen": n_chosen,
        "routes": _base64(routing.experts[cut:stop]),
        "weights": _base64(np.rint(100 * routing.weights[cut:stop])),
        "words": json.dumps(asdict(words)),
    }
    attributes = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in about.items())
    parts = [
        _layers(n_layers, words, ids),
        _legend(routing.n_experts, words),
        _text(routing, tokens, words, ids),
        f"<p>{escape(words.cut.format(shown=len(tokens), all=stop - start))}</p>" if cut > start else "",
        f"<p>{escape(words.hint)}</p>",
        heat_map(routing, words, ids=ids),
        repetition_chart(routing, words, ids=ids),
        '<div class="tip" role="tooltip" hidden></div>',
    ]
    return f'<div class="octuor-routing" lang="{escape(words.language)}" {attributes}>' + "".join(parts) + "</div>"


def heat_map(routing: Routing, words: Words = ENGLISH, *, ids: str = "") -> str:
    """Experts down, layers across; even is neutral, more and less have a colour each, full at twice even and at 0."""
    load, first = routing.load(), routing.load(first_only=True)
    n_layers, n_experts = load.shape
    n_tokens, even = len(routing), 1 / n_experts
    totals = np.maximum(load.sum(axis=1, keepdims=True), 1)
    shares, firsts = load / totals, first / max(n_tokens, 1)
    top = max(2 * even, float(shares.max(initial=0)))

    def cell(layer: int, expert: int) -> str:
        share = shares[layer, expert]
        depth = (share - even) / (top - even) if share > even else (even - share) / even
        kind = ("more" if share > even else "less") + (" deep" if depth > 0.6 else "")
        told = words.load_cell.format(
            layer=layer, expert=expert, share=words.percent(share), count=int(load[layer, expert]),
            all=int(totals[layer, 0]), first=words.percent(firsts[layer, expert]),
        )  # fmt: skip
        return (
            f'<td class="{kind}" data-l="{layer}" style="--v:{depth:.3f}" data-tell="{escape(told)}">'
            f"<span>{100 * share:.0f}</span></td>"
        )

    rows = "".join(
        f'<tr><th scope="row"><i data-e="{expert}">{expert}</i></th>'
        + "".join(cell(layer, expert) for layer in range(n_layers))
        + "</tr>"
        for expert in range(n_experts)
    )
    head = "".join(f'<th scope="col" data-l="{n}">{label}</th>' for n, label in enumerate(_labels(n_layers)))
    mark = 100 * even / top
    scale = (
        '<div class="scale"><div>'
        '<div class="ramp" style="background:linear-gradient(to right in oklab, var(--less), '
        f'var(--mid) {mark:.1f}%, var(--more))"></div><i class="mark" style="left:{mark:.1f}%"></i>'
        f'<span>0</span><span style="left:{mark:.1f}%">{escape(words.uniform.format(share=words.percent(even)))}</span>'
        f'<span style="left:100%">{words.percent(top)}</span></div></div>'
    )
    many = " many" if n_layers > WIDE else ""
    return (
        f"<h3>{escape(words.load)}</h3><p>{escape(words.load_about.format(share=words.percent(even)))}</p>"
        f'<div class="panel{many}"{_id(ids, "heat")}><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{scale}</div>"
    )


def repetition_chart(routing: Routing, words: Words = ENGLISH, *, ids: str = "") -> str:
    """A bar for each number of choices in the heat map's columns, and the random rates as lines."""
    choices = range(1, min(2, routing.experts.shape[2]) + 1)
    rates = [routing.repetition(n) for n in choices]  # each [L]
    chances = [routing.random_repetition(n) for n in choices]
    names, texts = ("one", "two"), (words.one, words.two)
    highest = float(np.nan_to_num(np.array(rates)).max(initial=max(0.5, *chances)))
    top = min(1.0, np.ceil(10 * highest + 0.2) / 10)

    def bars(layer: int) -> str:
        told = "; ".join(
            words.repeated.format(kind=text, share=words.percent(rate[layer]), chance=words.percent(chance))
            for text, rate, chance in zip(texts, rates, chances, strict=False)
        )
        told = f"{words.layer} {layer}: {told}"
        heights = "".join(
            f'<i class="{name}" style="height:{100 * np.nan_to_num(rate[layer]) / top:.1f}%"></i>'
            for name, rate in zip(names, rates, strict=False)
        )
        return f'<div data-l="{layer}" data-tell="{escape(told)}">{heights}</div>'

    ticks = [tick for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick <= top]
    axis = "".join(f'<span style="bottom:{100 * tick / top:.1f}%">{100 * tick:.0f}{THIN}%</span>' for tick in ticks)
    lines = "".join(
        f'<hr class="{name}" style="bottom:{100 * chance / top:.1f}%">'
        for name, chance in zip(names, chances, strict=False)
    )
    numbers = "".join(f'<span data-l="{n}">{label}</span>' for n, label in enumerate(_labels(routing.n_layers)))
    legend = "".join(
        f'<span><i class="{name}"></i>{escape(text)}; {escape(words.chance.format(share=words.percent(chance)))}</span>'
        for name, text, chance in zip(names, texts, chances, strict=False)
    )
    return (
        f"<h3>{escape(words.repetition)}</h3><p>{escape(words.repetition_about)}</p>"
        f'<div class="panel"{_id(ids, "repetition")}><div class="chart"><div class="axis">{axis}</div>'
        f'<div class="bars">{"".join(map(bars, range(routing.n_layers)))}{lines}</div></div>'
        f'<div class="numbers">{numbers}</div><div class="lines">{legend}</div></div>'
    )


@lru_cache(maxsize=1)
def style() -> str:
    """The style sheet, with a colour for each expert. Dark within anything of class "dark"."""
    return expert_rules(".octuor-routing") + (Path(__file__).parent / "view.css").read_text("utf-8")


@lru_cache(maxsize=1)
def script() -> str:
    """Defines octuorRouting(host), to be called once with the document or an element around a view; see view.js."""
    return (Path(__file__).parent / "view.js").read_text("utf-8")


def piece_html(piece: str) -> str:
    """A token's text, its line ends and acting signs visible; it takes as much room as it takes in the text."""
    return "".join(_sign(sign) for sign in piece)


def _sign(sign: str) -> str:
    if sign in ENTITIES:
        return ENTITIES[sign]
    if ord(sign) in ACTING:
        return f'<i class="ctl" data-u="U+{ord(sign):04X}"></i>'
    return escape(sign)


def _layers(n_layers: int, words: Words, ids: str) -> str:
    places = {words.first: 0, words.middle: (n_layers - 1) // 2, words.last: n_layers - 1}
    buttons = "".join(f'<button type="button" data-go="{n}">{escape(name)}</button>' for name, n in places.items())
    name = _id(ids, "layer")
    return (
        f'<div class="layers"><label>{escape(words.layer)} <output>0</output></label>'
        f'<input type="range" min="0" max="{n_layers - 1}" value="0" aria-label="{escape(words.layer)}"{name}>'
        f"<span>{buttons}</span></div>"
    )


def _legend(n_experts: int, words: Words) -> str:
    keys = "".join(
        f'<button type="button" class="key" data-e="{n}" aria-pressed="false"><i>{n}</i><b></b></button>'
        for n in range(n_experts)
    )
    about = escape(words.legend)
    return f'<div class="legend" role="group" aria-label="{about}" title="{about}">{keys}</div>'


def _text(routing: Routing, tokens: Sequence[int], words: Words, ids: str) -> str:
    spans = "".join(_token(routing, i, place) for place, i in enumerate(tokens))
    return (
        f'<div class="text" dir="auto" role="group" aria-label="{escape(words.text)}"{_id(ids, "text")}>{spans}</div>'
    )


def _token(routing: Routing, i: int, place: int) -> str:
    piece = routing.pieces[i]
    told = ""
    if not np.isnan(routing.logprobs[i]):
        alternatives = json.dumps(_alternatives(routing, i), ensure_ascii=False, separators=(",", ":"))
        told = f' data-p="{np.exp(routing.logprobs[i]):.4f}" data-alternatives="{escape(alternatives)}"'
    return (
        f'<span class="tok{"" if piece else " none"}" data-i="{place}" data-e="{routing.experts[i, 0, 0]}" '
        f'data-id="{routing.ids[i]}" tabindex="{-1 if place else 0}"{told}>{piece_html(piece)}</span>'
    )


def _alternatives(routing: Routing, i: int) -> list[tuple[str, float, bool]]:
    """Pieces that might have stood there with their probabilities, and whether it is the one that does."""
    ids, logprobs, pieces = routing.alternatives
    said = int(routing.ids[i])
    found = [
        (piece, round(float(np.exp(logprob)), 4), bool(number == said))
        for piece, number, logprob in zip(pieces[i], ids[i], logprobs[i], strict=True)
        if not np.isnan(logprob)
    ]
    if said not in ids[i]:
        found.append((routing.pieces[i], round(float(np.exp(routing.logprobs[i])), 4), True))
    return found


def _labels(n_layers: int) -> list[str]:
    """Numbers of layers under their columns, as many as a phone has room for."""
    every = max(1, -(-n_layers // 8))
    return [str(n) if n % every == 0 else "" for n in range(n_layers)]


def _id(ids: str, name: str) -> str:
    return f' id="{escape(ids)}-{name}"' if ids else ""


def _base64(numbers: NDArray) -> str:
    return b64encode(np.ascontiguousarray(numbers.astype(np.uint8)).tobytes()).decode("ascii")
