"""The pack beside its source on held-out text, each walked through layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from octuor.tools.convert import Progress
from octuor.tools.pack.sensitivity import CHUNK, divergence
from octuor.tools.pack.walk import F32Array, Source, Walk, log_probabilities


@dataclass(frozen=True)
class Comparison:
    """Means over n_tokens held-out tokens.

    divergence         KL from the source's next-token distribution to the pack's, nats
    divergence_error   standard error of that mean
    agreement          share of tokens whose likeliest successor is the same
    source_loss, loss  cross-entropy of the text, nats a token
    """

    n_tokens: int
    divergence: float
    divergence_error: float
    agreement: float
    source_loss: float
    loss: float

    @property
    def source_perplexity(self) -> float:
        """Of the source on the text."""
        return exp(min(self.source_loss, 700.0))

    @property
    def perplexity(self) -> float:
        """Of the pack on the text."""
        return exp(min(self.loss, 700.0))


def compare(
    source: Source,
    pack: Source,
    sequences: Sequence[NDArray[np.int32]],
    hidden: F32Array,
    progress: Progress | None = None,
) -> Comparison:
    """Walk the sequences through the pack and compare.

    hidden    [T, D] the source's final hidden states of their tokens
    progress  called after each layer with layers done and in all
    """
    walk = Walk.start(pack, sequences)
    for n in range(pack.config.n_layers):
        walk.step()
        if progress is not None:
            progress(n + 1, pack.config.n_layers)
    tokens = walk.batch.tokens
    predicts = np.ones(len(tokens), dtype=bool)
    predicts[walk.batch.last_rows] = False  # nothing of the text follows a passage's last token
    rows = np.flatnonzero(predicts)
    found = [_chunk(source, pack, hidden, walk.x, tokens, rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
    source.release("lm_head")
    each, same, losses, own_losses = (np.concatenate(column) for column in zip(*found, strict=True))
    n = len(rows)
    return Comparison(
        n, float(each.mean()), float(each.std() / np.sqrt(n)), float(same.mean()), float(own_losses.mean()),
        float(losses.mean()),
    )  # fmt: skip


def _chunk(
    source: Source, pack: Source, hidden: F32Array, own: F32Array, tokens: NDArray[np.int32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], ...]:
    """Divergence, agreement, the pack's losses and the source's of some rows."""
    exact, found = log_probabilities(source, hidden[rows]), log_probabilities(pack, own[rows])
    following = tokens[rows + 1]
    at = np.arange(len(rows))
    return (
        divergence(exact, found),
        (exact.argmax(axis=1) == found.argmax(axis=1)).astype(np.float64),
        -found[at, following].astype(np.float64),
        -exact[at, following].astype(np.float64),
    )
