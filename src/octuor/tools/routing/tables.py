"""An analysis as tidy tables, a row an observation, and as one object for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from octuor.routing.tally import Tally
from octuor.tools.routing.analysis import Analysis

Row = Sequence[object]

CHOICES = ("first", "second")


def choice_name(choice: int) -> str:
    """Of a token's first expert, its second, and so on."""
    return CHOICES[choice] if choice < len(CHOICES) else str(choice + 1)


def overlap_name(choices: int) -> str:
    """Of a repetition among so many first choices."""
    return "first" if choices == 1 else "first or second" if choices == 2 else f"first {choices}"


def experts_csv(analysis: Analysis, layers: Sequence[int]) -> str:
    """Figure 7 and 9: how many tokens, and which share, each expert had, by domain, layer and choice."""
    return _csv(("domain", "layer", "choice", "expert", "tokens", "share", "uniform"), _experts(analysis, layers))


def repetition_csv(analysis: Analysis) -> str:
    """Figure 10 and Table 5: neighbours with the same expert, by domain, layer and choice, in all layers."""
    return _csv(("domain", "layer", "choice", "pairs", "repeated", "share", "random"), _repetition(analysis))


def text_csv(analysis: Analysis) -> str:
    """Figure 8: every token of the texts that are shown, with its experts in all layers."""
    head = ("text", "token", "id", "piece", "logprob", "layer", "choice", "expert", "weight")
    return _csv(head, _tokens(analysis))


def as_json(analysis: Analysis, layers: Sequence[int]) -> dict[str, Any]:
    """All figures for programs: shares at the chosen layers, repetition at all."""
    first = analysis.tallies[0]
    return {
        "model": analysis.model,
        "layers": list(layers),
        "n_layers": first.n_layers,
        "n_experts": first.n_experts,
        "tokens": analysis.n_tokens,
        "seconds": analysis.seconds,
        "random_repetition": {
            overlap_name(n): first.random_repetition(n) for n in range(1, min(first.n_choices, 2) + 1)
        },
        "domains": [_domain(tally, layers) for tally in analysis.tallies],
        "texts": [
            {
                "name": block.name,
                "ids": block.routing.ids.tolist(),
                "pieces": list(block.routing.pieces),
                "experts": block.routing.experts[:, list(layers)].tolist(),
                "weights": [[[round(float(w), 4) for w in layer] for layer in token]
                            for token in block.routing.weights[:, list(layers)]],
            }
            for block in analysis.blocks
        ],
    }  # fmt: skip


def _domain(tally: Tally, layers: Sequence[int]) -> dict[str, Any]:
    shares: dict[str, Any] = {"any": tally.share()[list(layers)].tolist()}
    for choice in range(tally.n_choices):
        shares[choice_name(choice)] = tally.share(choice)[list(layers)].tolist()
    repetition = {
        overlap_name(n): [float(x) if tally.n_pairs else None for x in tally.repetition(n)]
        for n in range(1, min(tally.n_choices, 2) + 1)
    }
    return {"name": tally.name, "tokens": tally.n_tokens, "share": shares, "repetition": repetition}


def _experts(analysis: Analysis, layers: Sequence[int]) -> Iterator[Row]:
    for tally in analysis.tallies:
        for layer in layers:
            for choice in (None, *range(tally.n_choices)):
                counts = tally.chosen.sum(axis=0) if choice is None else tally.chosen[choice]
                share = tally.share(choice)[layer]
                name = "any" if choice is None else choice_name(choice)
                for expert in range(tally.n_experts):
                    yield (
                        tally.name, layer, name, expert, counts[layer, expert], f"{share[expert]:.6f}",
                        f"{1 / tally.n_experts:.6f}",
                    )  # fmt: skip


def _repetition(analysis: Analysis) -> Iterator[Row]:
    for tally in analysis.tallies:
        for choices in range(1, min(tally.n_choices, 2) + 1):
            random, share = tally.random_repetition(choices), tally.repetition(choices)
            for layer in range(tally.n_layers):
                yield (
                    tally.name, layer, overlap_name(choices), tally.n_pairs, tally.repeated[choices - 1, layer],
                    f"{share[layer]:.6f}", f"{random:.6f}",
                )  # fmt: skip


def _tokens(analysis: Analysis) -> Iterator[Row]:
    for block in analysis.blocks:
        routing = block.routing
        for token, piece in enumerate(routing.pieces):
            logprob = "" if routing.logprobs[token] != routing.logprobs[token] else f"{routing.logprobs[token]:.6f}"
            for layer in range(routing.n_layers):
                for choice in range(routing.experts.shape[2]):
                    yield (
                        block.name, token, routing.ids[token], piece, logprob, layer, choice_name(choice),
                        routing.experts[token, layer, choice], f"{routing.weights[token, layer, choice]:.6f}",
                    )  # fmt: skip


def _csv(head: Row, rows: Iterator[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()
