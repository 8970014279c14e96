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
from octuor.routing.recording import PassLog
from octuor.routing.values import TokenRoutes


@dataclass(frozen=True)
class Result:
    """What a piece of work gave: of each of its tokens for a reader, else of its last token, or of none.

    hidden  [R, D] float32 last hidden states
    logits  [R, V] float32; [0, V] where no token follows
    routes  where they are recorded: of all its tokens while the prompt is read, then of its last; None: of none
    """

    hidden: NDArray[np.float32]
    logits: NDArray[np.float32]
    routes: TokenRoutes | None = None


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
        spans: list[tuple[slice, range]] = []
        is_recorded = False
        n_rows = 0
        for part in work:
            sequence = part.sequence
            assert sequence.cache is not None
            entries += [(sequence.cache, sequence.ids[run.start : run.stop]) for run in part.runs]
            n_rows += part.n_tokens
            kept = range(n_rows - (part.n_tokens if sequence.is_reader else int(part.is_last)), n_rows)
            told = range(n_rows - _n_recorded(part), n_rows)
            spans.append((slice(len(wanted), len(wanted) + len(kept)), told))
            wanted += kept
            is_recorded |= len(told) > 0
        needed = wanted or [n_rows - 1]  # a pass needs a row, wanted or not
        log = PassLog(model.ops) if is_recorded else None
        batch, rows = step(self._cache, entries), np.asarray(needed, dtype=np.int32)
        ops = model.ops
        if any(part.sequence.adapter is not None for part in work):
            ops = model.adapters.ops_for([(part.sequence.adapter, part.n_tokens) for part in work], rows)
        hidden = forward_pass.forward(ops, model.weights, model.config, batch, log, rows)
        if wanted:
            logits = model.ops.to_numpy(forward_pass.logits(model.ops, model.weights, hidden))
        else:
            logits = np.empty((0, model.config.vocab_size), dtype=np.float32)
        states = model.ops.to_numpy(hidden)
        return [
            Result(states[kept], logits[kept], log.routes(told) if log is not None and told else None)
            for kept, told in spans
        ]


def _n_recorded(part: Work) -> int:
    """How many of the last tokens of a piece of work are recorded. After a pause, an answer's were told before."""
    if not part.sequence.is_recorded:
        return 0
    return int(part.is_last) if part.sequence.answer else part.n_tokens
