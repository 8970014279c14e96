"""Which rows make which step: epochs, each in an order of its own, cut by tokens; the seed decides all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octuor.tune.recipe import Schedule

Rows = NDArray[np.int64]


def plan_steps(lengths: Sequence[int], schedule: Schedule) -> list[Rows]:
    """Row numbers of every step: rows are taken while they fit in tokens_per_step, at least one a step.

    lengths  tokens of each row

    Epochs follow one another without a seam, so that only the last step may be short. With `steps` given, as many
    epochs as those take.
    """
    counts = np.asarray(lengths)
    budget, steps, current, used, epoch = schedule.tokens_per_step, list[Rows](), list[int](), 0, 0
    left = schedule.epochs if schedule.steps is None else np.inf
    while left > 0:
        order = np.random.default_rng([schedule.seed, epoch]).permutation(len(counts))
        for row in order[: max(1, round(len(order) * min(left, 1.0)))].tolist():
            if current and used + counts[row] > budget:
                steps.append(np.array(current, dtype=np.int64))
                if len(steps) == schedule.steps:
                    return steps
                current, used = [], 0
            current.append(row)
            used += int(counts[row])
        left, epoch = left - 1, epoch + 1
    return [*steps, np.array(current, dtype=np.int64)]


def turns(rows: Rows, lengths: Sequence[int], tokens_at_once: int) -> list[Rows]:
    """A step's rows in turns of at most tokens_at_once tokens, but for a row that alone has more."""
    parts, used = [list[int]()], 0
    for row in rows.tolist():
        if parts[-1] and used + lengths[row] > tokens_at_once:
            parts.append([])
            used = 0
        parts[-1].append(row)
        used += lengths[row]
    return [np.array(part, dtype=np.int64) for part in parts]
