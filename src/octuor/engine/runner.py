"""From the work of a step to arrays, through the model, and back. T tokens, D dim, V vocab_size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor import model as forward_pass
from octuor.api import Model
from octuor.batch import step
from octuor.cache import KVCache
from octuor.engine.scheduler import Work


@dataclass(frozen=True)
class Result:
    """What a piece of work gave: of each of its tokens for a reader, else of its last token, or of none.

    hidden  [R, D] float32 last hidden states
    logits  [R, V] float32; [0, V] where no token follows
    """

    hidden: NDArray[np.float32]
    logits: NDArray[np.float32]


class Runner:
    """Runs steps of one model over one cache."""

    def __init__(self, model: Model, cache: KVCache) -> None:
        self._model = model
        self._cache = cache

    def run(self, work: list[Work]) -> list[Result]:
        """One forward pass over all work; a Result for each."""
        model = self._model
        entries = []
        wanted: list[int] = []
        spans = []
        n_rows = 0
        for part in work:
            sequence = part.sequence
            assert sequence.cache is not None
            entries += [(sequence.cache, sequence.ids[run.start : run.stop]) for run in part.runs]
            n_kept = part.n_tokens if sequence.is_reader else int(part.is_last)
            n_rows += part.n_tokens
            spans.append(slice(len(wanted), len(wanted) + n_kept))
            wanted += range(n_rows - n_kept, n_rows)
        rows = np.asarray(wanted or [n_rows - 1], dtype=np.int32)  # a pass needs a row, wanted or not
        hidden = forward_pass.forward(model.ops, model.weights, model.config, step(self._cache, entries), rows=rows)
        if wanted:
            logits = model.ops.to_numpy(forward_pass.logits(model.ops, model.weights, hidden))
        else:
            logits = np.empty((0, model.config.vocab_size), dtype=np.float32)
        states = model.ops.to_numpy(hidden)
        return [Result(states[span], logits[span]) for span in spans]
