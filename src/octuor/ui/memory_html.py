"""A Status as HTML: what occupies memory, which experts are there, how busy the models are. Everything is escaped.

memory.css gives it its look, memory.js has it drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from octuor.experts.store import StoreStats
from octuor.ui.backend import ModelStatus, Status
from octuor.ui.texts import Language, number, say
from octuor.units import format_bytes

THIN = "\u202f"  # a narrow space that no line is broken at


@dataclass(frozen=True)
class Parts:
    """What memory is made of, in bytes, in the order of the bar.

    work  what the process has beside the others; 0 where mapped weights are counted that it has not touched yet
    """

    experts: int
    others: int
    cache: int
    work: int
    headroom: int


def parts_of(status: Status) -> Parts:
    """The parts over all models."""
    experts = sum(model.held_bytes for model in status.models)
    others = sum(model.other_bytes for model in status.models)
    cache = sum(model.pages_used * model.page_bytes for model in status.models)
    return Parts(experts, others, cache, max(0, status.process_bytes - experts - others - cache), status.headroom_bytes)


def memory_html(status: Status | None, language: Language) -> str:
    """The page; None: of an address that does not tell."""
    if status is None:
        body = f'<p class="nothing">{escape(say(language, "memory_nothing"))}</p>'
    else:
        body = _tiles(status, language) + _bar(status, language)
        body += "".join(_model(model, language) for model in status.models)
    return f'<div class="octuor-memory" lang="{language}">{body}</div>'


def failed_html(error: str) -> str:
    """The page where asking has failed."""
    return f'<div class="octuor-memory"><p class="nothing">{escape(error)}</p></div>'


def _tiles(status: Status, language: Language) -> str:
    def speed(found: list[float | None]) -> str:
        known = [each for each in found if each is not None]
        shown = number(language, sum(known), 1) if known else "–"
        return f"{shown} <small>{escape(say(language, 'memory_speed'))}</small>"

    tiles = {
        "answers": (say(language, "memory_answers"), speed([model.tokens_per_s for model in status.models])),
        "prompts": (say(language, "memory_prompts"), speed([model.prompt_tokens_per_s for model in status.models])),
        "running": (say(language, "memory_running"), str(sum(model.running for model in status.models))),
        "waiting": (say(language, "memory_waiting"), str(sum(model.waiting for model in status.models))),
    }
    shown = "".join(
        f'<div data-tile="{name}"><span>{escape(label)}</span>{markup}</div>' for name, (label, markup) in tiles.items()
    )
    return f'<div class="tiles">{shown}</div>'


def _bar(status: Status, language: Language) -> str:
    parts = parts_of(status)
    named = (
        ("experts", say(language, "memory_experts"), parts.experts),
        ("others", say(language, "memory_others"), parts.others),
        ("cache", say(language, "memory_cache"), parts.cache),
        ("work", say(language, "memory_work"), parts.work),
        ("headroom", say(language, "memory_headroom"), parts.headroom),
    )
    total = max(1, sum(n_bytes for _, _, n_bytes in named))
    taken, left = _amount(status.process_bytes, language), _amount(status.headroom_bytes, language)
    if status.limit_bytes is None:
        about = say(language, "memory_taken", taken=taken, left=left)
    else:
        about = say(language, "memory_of_limit", taken=taken, left=left, limit=_amount(status.limit_bytes, language))
    bar = "".join(f'<i class="{name}" style="flex-grow:{n_bytes / total:.5f}"></i>' for name, _, n_bytes in named)
    legend = "".join(
        f'<li data-part="{name}" data-bytes="{n_bytes}"><i class="{name}"></i>{escape(label)} '
        f"<b>{_amount(n_bytes, language)}</b></li>"
        for name, label, n_bytes in named
    )
    return (
        f"<h3>{escape(say(language, 'tab_memory'))}</h3><p>{escape(about)}</p>"
        f'<div class="bar" role="img" aria-label="{escape(about)}">{bar}</div><ul>{legend}</ul>'
    )


def _model(model: ModelStatus, language: Language) -> str:
    return (
        f'<section data-model="{escape(model.name)}"><h2>{escape(model.name)}</h2>'
        f"{_grid(model, language)}{_counts(model, language)}</section>"
    )


def _grid(model: ModelStatus, language: Language) -> str:
    """Experts down, layers across, as in the observatory."""
    n_layers, n_experts = model.resident.shape
    if n_experts == 1:
        return f"<p>{escape(say(language, 'memory_dense'))}</p>"
    all_bytes = _amount(model.expert_bytes, language)
    if model.store is None:
        about = say(language, "memory_mapped", all=model.resident.size, all_bytes=all_bytes)
    else:
        n_held, held_bytes = int(model.resident.sum()), _amount(model.held_bytes, language)
        about = say(
            language, "memory_held", held=n_held, all=model.resident.size, held_bytes=held_bytes, all_bytes=all_bytes
        )

    def cell(layer: int, expert: int) -> str:
        kind = "in" if model.resident[layer, expert] else "out"
        key = "memory_is_held" if kind == "in" else "memory_is_away"
        return f'<td class="{kind}" title="{escape(say(language, key, layer=layer, expert=expert))}"></td>'

    rows = "".join(
        f'<tr data-e="{expert}"><th scope="row"><i>{expert}</i></th>'
        + "".join(cell(layer, expert) for layer in range(n_layers))
        + "</tr>"
        for expert in range(n_experts)
    )
    every = max(1, -(-n_layers // 8))
    head = "".join(f'<th scope="col">{n if n % every == 0 else ""}</th>' for n in range(n_layers))
    return (
        f"<h3>{escape(say(language, 'memory_grid'))}</h3><p>{escape(about)}</p>"
        f'<table class="grid"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _counts(model: ModelStatus, language: Language) -> str:
    n_tokens, n_bytes = model.pages_used * model.page_tokens, model.pages_used * model.page_bytes
    pages = say(
        language, "memory_pages_used", used=number(language, model.pages_used), all=number(language, model.cache_pages),
        tokens=number(language, n_tokens), bytes=_amount(n_bytes, language), known=number(language, model.pages_known),
    )  # fmt: skip
    rows = [(say(language, "memory_pages"), pages)]
    if model.store is not None:
        rows += _store_rows(model.store, language)
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows) + "</dl>"


def _store_rows(store: StoreStats, language: Language) -> list[tuple[str, str]]:
    n_visits = store.hits + store.misses
    share = f"{number(language, 100 * store.hits / n_visits, 1)}{THIN}%" if n_visits else "–"
    n_bytes, seconds = _amount(store.read_bytes, language), number(language, store.wait_s, 1)
    return [
        (say(language, "memory_hits"), say(language, "memory_hits_of", share=share, all=number(language, n_visits))),
        (say(language, "memory_read"), say(language, "memory_read_bytes", bytes=n_bytes, seconds=seconds)),
    ]


def _amount(n_bytes: int, language: Language) -> str:
    amount, _, unit = format_bytes(n_bytes).partition(" ")
    return f"{amount if language == 'en' else amount.replace('.', ',')}{THIN}{unit}"
