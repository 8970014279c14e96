"""A routing as HTML: coloured text, layers by experts, repetition. observatory.css and observatory.js give it life.

Everything that comes from a text or a model is escaped.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from octuor.routing import Routing
from octuor.ui.texts import Language, number, say

THIN = "\u202f"  # a narrow space that no line is broken at
# Signs that would act rather than show: controls, and what turns the text's direction, also that of what comes after.
ACTING = ((0x00, 0x1F), (0x7F, 0x9F), (0x200E, 0x200F), (0x2028, 0x2029), (0x202A, 0x202E), (0x2066, 0x2069))
SIGNS = {
    chr(code): f'<i class="ctl" data-u="U+{code:04X}"></i>' for first, last in ACTING for code in range(first, last + 1)
}
# As entities, so that a view is one line: what is between HTML and a browser, such as Markdown, changes no line.
SIGNS |= {"\n": '<i class="nl">&#10;</i>', "\t": "&#9;"}
TOLD = ("token", "experts_at", "expert", "strip", "probability")  # texts that the script fills in
MOST = 4096  # tokens that are shown; more make a browser slow
WIDE = 16  # layers up to which a heat map's cells have room for their numbers on a phone too


def view(routing: Routing, language: Language, *, most: int = MOST) -> str:
    """All of it: layer, legend, text, load and repetition, in one line.

    most  tokens that are shown, the last ones; load and repetition are of all
    """
    n_tokens, n_layers, n_chosen = routing.experts.shape
    tokens = range(max(0, n_tokens - most), n_tokens)
    about = {
        "layers": n_layers,
        "experts": routing.n_experts,
        "chosen": n_chosen,
        "routes": _base64(routing.experts[tokens.start :]),
        "weights": _base64(np.rint(100 * routing.weights[tokens.start :])),
        "words": json.dumps(_told(language), ensure_ascii=False),
    }
    attributes = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in about.items())
    parts = [
        _layers(n_layers, language),
        _legend(routing.n_experts, language),
        _text(routing, tokens, language),
        _line(language, "view_cut", shown=len(tokens), all=n_tokens) if tokens.start else "",
        _line(language, "view_hint"),
        heat_map(routing, language),
        repetition_chart(routing, language),
        '<div class="tip" role="status" hidden></div>',
    ]
    return f'<div class="octuor-routing" lang="{language}" {attributes}>' + "".join(parts) + "</div>"


# ---- layers by experts ---------------------------------------------------------------------------


def heat_map(routing: Routing, language: Language) -> str:
    """Experts down, layers across; even is neutral, more and less have a colour each, full at twice even and at 0."""
    load = routing.load()
    shares = load / np.maximum(load.sum(axis=1, keepdims=True), 1)
    firsts = routing.load(first_only=True) / max(len(routing), 1)
    even = 1 / routing.n_experts
    top = max(2 * even, float(shares.max(initial=0)))

    def cell(layer: int, expert: int) -> str:
        share = shares[layer, expert]
        depth = (share - even) / (top - even) if share > even else (even - share) / even
        kind = ("more" if share > even else "less") + (" deep" if depth > 0.6 else "")
        told = say(
            language, "view_load_cell", layer=layer, expert=expert, share=percent(share, language),
            count=number(language, load[layer, expert]), all=number(language, load[layer].sum()),
            first=percent(firsts[layer, expert], language),
        )  # fmt: skip
        return (
            f'<td class="{kind}" data-l="{layer}" style="--v:{depth:.3f}" data-tell="{escape(told)}">'
            f"<span>{100 * share:.0f}</span></td>"
        )

    rows = "".join(
        f'<tr><th scope="row"><i data-e="{expert}">{expert}</i></th>'
        + "".join(cell(layer, expert) for layer in range(routing.n_layers))
        + "</tr>"
        for expert in range(routing.n_experts)
    )
    head = "".join(f'<th scope="col" data-l="{n}">{label}</th>' for n, label in enumerate(_labels(routing.n_layers)))
    about = say(language, "view_load_about", share=percent(even, language))
    return (
        f"<h3>{escape(say(language, 'view_load'))}</h3><p>{escape(about)}</p>"
        f'<div class="panel{" many" if routing.n_layers > WIDE else ""}" id="observatory-heat">'
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"{_scale(even, top, language)}</div>"
    )


def _scale(even: float, top: float, language: Language) -> str:
    """What the heat map's colours mean, with a mark at what all have if they have the same."""
    mark = f"{100 * even / top:.1f}%"
    ramp = f"linear-gradient(to right in oklab, var(--less), var(--even) {mark}, var(--more))"
    if_even = escape(say(language, "view_uniform", share=percent(even, language)))
    return (
        f'<div class="scale"><div class="ramp" style="background:{ramp}"></div><i class="mark" style="left:{mark}"></i>'
        f'<span>0</span><span style="left:{mark}">{if_even}</span><span>{percent(top, language)}</span></div>'
    )


# ---- repetition ----------------------------------------------------------------------------------


def repetition_chart(routing: Routing, language: Language) -> str:
    """A bar for each number of choices in the heat map's columns, and the random rates as lines."""
    kinds = ("one", "two")[: routing.experts.shape[2]]
    rates = [routing.repetition(n) for n in range(1, len(kinds) + 1)]  # each [L]
    chances = [routing.random_repetition(n) for n in range(1, len(kinds) + 1)]
    names = [say(language, f"view_{kind}") for kind in kinds]
    highest = float(np.nan_to_num(np.array(rates)).max(initial=max(0.5, *chances)))
    top = min(1.0, np.ceil(10 * highest + 0.2) / 10)

    def bars(layer: int) -> str:
        told = "; ".join(
            say(
                language, "view_repeated", kind=name,
                share=percent(rate[layer], language), chance=percent(chance, language),
            )
            for name, rate, chance in zip(names, rates, chances, strict=True)
        )  # fmt: skip
        told = f"{say(language, 'view_layer')} {layer}: {told}"
        heights = "".join(
            f'<i class="{kind}" style="height:{100 * np.nan_to_num(rate[layer]) / top:.1f}%"></i>'
            for kind, rate in zip(kinds, rates, strict=True)
        )
        return f'<div data-l="{layer}" data-tell="{escape(told)}">{heights}</div>'

    ticks = [tick for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick <= top]
    axis = "".join(f'<span style="bottom:{100 * tick / top:.1f}%">{100 * tick:.0f}{THIN}%</span>' for tick in ticks)
    lines = "".join(f'<hr style="bottom:{100 * chance / top:.1f}%">' for chance in chances)
    numbers = "".join(f'<span data-l="{n}">{label}</span>' for n, label in enumerate(_labels(routing.n_layers)))
    legend = "".join(
        f'<span><i class="{kind}"></i>{escape(name)}; '
        f"{escape(say(language, 'view_chance', share=percent(chance, language)))}</span>"
        for kind, name, chance in zip(kinds, names, chances, strict=True)
    )
    return (
        f"<h3>{escape(say(language, 'view_repetition'))}</h3>{_line(language, 'view_repetition_about')}"
        f'<div class="panel" id="observatory-repetition"><div class="chart"><div class="axis">{axis}</div>'
        f'<div class="bars">{"".join(map(bars, range(routing.n_layers)))}{lines}</div></div>'
        f'<div class="numbers">{numbers}</div><div class="lines">{legend}</div></div>'
    )


# ---- the text ------------------------------------------------------------------------------------


def piece_html(piece: str) -> str:
    """A token's text, its line ends and acting signs visible; it takes as much room as it takes in the text."""
    return "".join(SIGNS.get(sign) or escape(sign) for sign in piece)


def _layers(n_layers: int, language: Language) -> str:
    places = {"view_first": 0, "view_middle": (n_layers - 1) // 2, "view_last": n_layers - 1}
    buttons = "".join(
        f'<button type="button" data-go="{n}">{escape(say(language, key))}</button>' for key, n in places.items()
    )
    layer = escape(say(language, "view_layer"))
    return (
        f'<div class="layers"><label for="observatory-layer">{layer} <output>0</output></label>'
        f'<input type="range" min="0" max="{n_layers - 1}" value="0" id="observatory-layer">'
        f"<span>{buttons}</span></div>"
    )


def _legend(n_experts: int, language: Language) -> str:
    keys = "".join(
        f'<button type="button" class="key" data-e="{n}" aria-pressed="false"><i>{n}</i><b></b></button>'
        for n in range(n_experts)
    )
    about = escape(say(language, "view_legend"))
    return f'<div class="legend" role="group" aria-label="{about}" title="{about}">{keys}</div>'


def _text(routing: Routing, tokens: Sequence[int], language: Language) -> str:
    spans = "".join(_token(routing, i, place) for place, i in enumerate(tokens))
    about = escape(say(language, "view_text"))
    return f'<div class="text" id="observatory-text" dir="auto" role="group" aria-label="{about}">{spans}</div>'


def _token(routing: Routing, i: int, place: int) -> str:
    piece, told = routing.pieces[i], ""
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


# ---- numbers and words ---------------------------------------------------------------------------


def percent(share: float, language: Language) -> str:
    """A share with one decimal, "12.5 %"; a dash for what is not known."""
    return "–" if np.isnan(share) else f"{number(language, 100 * share, 1)}{THIN}%"


def _line(language: Language, key: str, **values: object) -> str:
    return f"<p>{escape(say(language, key, **values))}</p>"


def _told(language: Language) -> dict[str, str]:
    return {"decimal": number(language, 0.5, 1)[1]} | {name: say(language, f"view_{name}") for name in TOLD}


def _labels(n_layers: int) -> list[str]:
    """Numbers of layers under their columns, as many as a phone has room for."""
    every = max(1, -(-n_layers // 8))
    return [str(n) if n % every == 0 else "" for n in range(n_layers)]


def _base64(numbers: NDArray) -> str:
    return b64encode(np.ascontiguousarray(numbers.astype(np.uint8)).tobytes()).decode("ascii")
