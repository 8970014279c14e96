"""Texts through a model, counted by domain, and some of them kept to be shown token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from octuor.api import Model
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.routing.plot import Block
from octuor.routing.tally import Tally
from octuor.routing.trace import check_has_router
from octuor.tools.routing.texts import Domain, windows

MAX_TOKENS = 8192  # of a domain: the standard error of a share of an eighth is below 0.4 %
TEXT_TOKENS = 160  # of a text that are shown
ALTERNATIVES = 5

OnTokens = Callable[[int, int], None]  # tokens done, and in all


@dataclass(frozen=True)
class Analysis:
    """What was found.

    model    its name
    tallies  a domain each
    blocks   the beginnings of texts, with probabilities
    n_tokens, seconds  that ran, and took
    """

    model: str
    config: ModelConfig
    tallies: tuple[Tally, ...]
    blocks: tuple[Block, ...]
    n_tokens: int
    seconds: float


def analyse(
    model: Model,
    name: str,
    domains: Sequence[Domain],
    texts: Sequence[Domain] = (),
    *,
    max_tokens: int = MAX_TOKENS,
    text_tokens: int = TEXT_TOKENS,
    on_tokens: OnTokens | None = None,
) -> Analysis:
    """Count domains, and show the beginnings of texts, or of all domains where no texts are given.

    max_tokens   of each domain, without BOS, which counts nowhere
    text_tokens  of each text that is shown
    """
    check_has_router(model.config)
    began = time.perf_counter()
    tokenizer, context = model.tokenizer, model.context
    if context < 2:
        raise RequestError(f"context: expected two tokens at least, found {context}")
    counted = [(domain, windows(tokenizer, domain, context, max_tokens)) for domain in domains]
    shown = [(text, windows(tokenizer, text, context, text_tokens)[0]) for text in texts or domains]
    total = sum(len(ids) for _, parts in counted for ids in parts) + sum(len(ids) for _, ids in shown)
    done = 0

    def progress(n: int, _: int) -> None:
        if on_tokens is not None:
            on_tokens(done + n, total)

    tallies, blocks = [], []
    for domain, parts in counted:
        tally = Tally.empty(domain.name, model.config)
        for ids in parts:
            tally.add(model.route(ids, alternatives=None, on_prefill=progress), skip=1)
            done += len(ids)
        tallies.append(tally)
    for text, ids in shown:
        blocks.append(Block(text.name, model.route(ids, alternatives=ALTERNATIVES, on_prefill=progress)))
        done += len(ids)
    seconds = time.perf_counter() - began
    return Analysis(name, model.config, tuple(tallies), tuple(blocks), total, seconds)
