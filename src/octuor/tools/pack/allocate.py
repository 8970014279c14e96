"""The budget's optimum: one choice for each item, least loss in all, bytes within a limit.

A multiple-choice knapsack. Its Lagrangian relaxation is solved exactly by taking the steps of every item's lower convex
hull in order of loss saved a byte; that gives a bound that no allocation can pass, and, with what is left of the budget
filled step by step, an allocation close to it. The bound's multiplier then says of almost all other choices that no
better allocation has them; what is left is searched exactly, as a list of (bytes, loss) of which none is worse in both.
Only where that list grows beyond MAX_STATES is the answer not proven; its distance to the bound is known all the same.

Source: Kellerer, Pferschy & Pisinger 2004, Knapsack Problems, chapter 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from octuor.errors import RequestError

MAX_STATES = 20_000
ROUNDING = 1e-12  # of the loss: what sums of floats may differ by


@dataclass(frozen=True)
class Choice:
    """One way to store an item: what it takes and what it costs; loss is finite and not negative."""

    n_bytes: int
    loss: float


@dataclass(frozen=True)
class Allocation:
    """picks has one index into each item's choices.

    bound  no allocation within the budget has less loss than this; equal to loss where the search was exact
    """

    picks: tuple[int, ...]
    n_bytes: int
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """How far the loss is from the bound at most, relative to it."""
        return (self.loss - self.bound) / self.bound if self.bound > 0 else 0.0


@dataclass(frozen=True)
class _Step:
    """Going from one choice of an item's hull to the next."""

    item: int
    pick: int
    n_bytes: int
    saved: float

    @property
    def slope(self) -> float:
        return self.saved / self.n_bytes


def allocate(items: Sequence[Sequence[Choice]], budget: int, *, max_states: int = MAX_STATES) -> Allocation:
    """The choices of least loss whose bytes are at most `budget`.

    items  each with at least one choice, in any order
    Raises RequestError if even the smallest choices do not fit.
    """
    hulls = [_hull(item) for item in items]
    picks = [hull[0] for hull in hulls]
    least = sum(item[pick].n_bytes for item, pick in zip(items, picks, strict=True))
    if least > budget:
        raise RequestError(f"budget: expected at least {least} bytes, found {budget}")
    slope, bound = _climb(items, hulls, picks, budget)
    found = _measured(items, picks, bound)
    if found.loss - bound <= ROUNDING * found.loss:
        return _measured(items, picks, found.loss)
    return _search(items, budget, slope, found, max_states)


def _hull(item: Sequence[Choice]) -> list[int]:
    """Picks on the lower convex hull of (bytes, loss), from the smallest to the one of least loss."""
    hull: list[int] = []
    for pick in sorted(range(len(item)), key=lambda pick: (item[pick].n_bytes, item[pick].loss)):
        new = item[pick]
        if hull and new.loss >= item[hull[-1]].loss:
            continue
        while len(hull) > 1 and _slope(item[hull[-2]], item[hull[-1]]) <= _slope(item[hull[-1]], new):
            hull.pop()
        hull.append(pick)
    return hull


def _slope(small: Choice, large: Choice) -> float:
    """Loss saved a byte."""
    return (small.loss - large.loss) / (large.n_bytes - small.n_bytes)


def _climb(
    items: Sequence[Sequence[Choice]], hulls: Sequence[Sequence[int]], picks: list[int], budget: int
) -> tuple[float, float]:
    """Take steps, best first, while they fit; mutates picks. Returns the relaxation's multiplier and its bound."""
    steps = [
        _Step(n, large, item[large].n_bytes - item[small].n_bytes, item[small].loss - item[large].loss)
        for n, (item, hull) in enumerate(zip(items, hulls, strict=True))
        for small, large in pairwise(hull)
    ]
    steps.sort(key=lambda step: -step.slope)  # stable: an item's own steps stay in order, their slopes fall
    left = budget - sum(item[pick].n_bytes for item, pick in zip(items, picks, strict=True))
    loss = sum(item[pick].loss for item, pick in zip(items, picks, strict=True))
    stopped: set[int] = set()
    slope, bound = 0.0, None
    for step in steps:
        if step.n_bytes <= left and step.item not in stopped:
            picks[step.item] = step.pick
            left -= step.n_bytes
            loss -= step.saved
            continue
        if bound is None:  # the relaxation takes a part of this step and is full
            slope, bound = step.slope, loss - step.slope * left
        stopped.add(step.item)
    return slope, loss if bound is None else max(bound, 0.0)


def _measured(items: Sequence[Sequence[Choice]], picks: Sequence[int], bound: float) -> Allocation:
    chosen = [item[pick] for item, pick in zip(items, picks, strict=True)]
    loss = sum(choice.loss for choice in chosen)
    return Allocation(tuple(picks), sum(choice.n_bytes for choice in chosen), loss, min(bound, loss))


def _search(
    items: Sequence[Sequence[Choice]], budget: int, slope: float, best: Allocation, max_states: int
) -> Allocation:
    """The exact optimum among what the multiplier leaves, or `best` where that is too much.

    With c = loss + slope * bytes, any allocation's loss is at least the sum of its c less slope * budget. So a choice,
    or a partial allocation, whose c with the others' least comes to more than best.loss is in no better one.
    """
    priced = [np.array([choice.loss + slope * choice.n_bytes for choice in item]) for item in items]
    least = np.array([costs.min() for costs in priced])
    spare = best.loss * (1 + ROUNDING) + slope * budget - least.sum()  # what choices may cost beyond the least
    kept = [np.flatnonzero(costs - low <= spare) for costs, low in zip(priced, least, strict=True)]
    smallest = [min(items[n][pick].n_bytes for pick in picks) for n, picks in enumerate(kept)]
    room = budget - (sum(smallest) - np.cumsum(smallest))  # for items up to n
    n_bytes, loss = np.zeros(1, dtype=np.int64), np.zeros(1)
    above: list[tuple[NDArray[np.int32], NDArray[np.int8]]] = []
    low = 0.0
    for n, picks in enumerate(kept):
        low += least[n]
        every_bytes = np.concatenate([n_bytes + items[n][pick].n_bytes for pick in picks])
        every_loss = np.concatenate([loss + items[n][pick].loss for pick in picks])
        alive = np.flatnonzero((every_bytes <= room[n]) & (every_loss + slope * every_bytes - low <= spare))
        order = alive[np.lexsort((every_loss[alive], every_bytes[alive]))]
        lowest = np.minimum.accumulate(every_loss[order])
        order = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])] if len(order) else order
        if not 0 < len(order) <= max_states:
            return best
        above.append(((order % len(loss)).astype(np.int32), picks[order // len(loss)].astype(np.int8)))
        n_bytes, loss = every_bytes[order], every_loss[order]
    at, chosen = len(loss) - 1, []  # sorted by bytes with falling loss: the last is the best
    for origin, picked in reversed(above):
        chosen.append(int(picked[at]))
        at = int(origin[at])
    found = _measured(items, chosen[::-1], best.loss)
    return found if found.loss <= best.loss else _measured(items, best.picks, best.loss)
