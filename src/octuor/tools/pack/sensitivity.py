"""What errors cost: from a disturbance's divergence to the loss that each matrix has in each format.

Loss is the Kullback-Leibler divergence, in nats a token, from the source's next-token distribution to the new one's.
For errors as small as rounding's it grows with their square, so one number a place says it: divergence over squared
error. It is measured where the walk was disturbed, and interpolated between the layers that were. Errors of different
matrices are independent, so their losses add.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.ops.native import NativeOps
from octuor.tools.pack.measure import KINDS, LayerMeasures, Mean
from octuor.tools.pack.rounding import Errors, blocks, candidates, product, rounded, row_error
from octuor.tools.pack.walk import F32Array, Source, log_probabilities, log_softmax

CHUNK = 256  # tokens whose distributions are at work at once
LEAST = 1e-12  # nats: below it a divergence is float32's rounding

KIND_OF = {"gate": "hidden", "up": "hidden", "down": "output"}  # all others: attention


@dataclass(frozen=True)
class Branch:
    """Rows of a walk that were disturbed: kind is one of KINDS, or "embed"."""

    kind: str
    layer: int
    rows: slice


def divergence(exact: F32Array, found: F32Array) -> NDArray[np.float64]:
    """KL divergence of each row of log-probabilities [T, V], in nats."""
    return np.maximum((np.exp(exact) * (exact - found)).sum(axis=1, dtype=np.float64), 0.0)


def divergences(source: Source, x: F32Array, probe: Sequence[slice], branches: Sequence[Branch]) -> list[float]:
    """Each branch's mean divergence from the probed rows; x as the walk left it."""
    base = np.concatenate([x[part] for part in probe])
    sums = np.zeros(len(branches))
    for at in range(0, len(base), CHUNK):
        exact = log_probabilities(source, base[at : at + CHUNK])
        for n, branch in enumerate(branches):
            found = log_probabilities(source, x[branch.rows][at : at + CHUNK])
            sums[n] += divergence(exact, found).sum()
    source.release("lm_head")
    return [float(total) / len(base) for total in sums]


def factors(n_layers: int, found: Mapping[int, float]) -> NDArray[np.float64]:
    """Loss over error for every layer, from those that were probed: straight lines between, of the logarithm."""
    layers = sorted(found)
    logs = np.log([max(found[n], LEAST) for n in layers])
    return np.exp(np.interp(np.arange(n_layers), layers, logs))


def matrix_losses(
    n_layers: int,
    measures: Sequence[LayerMeasures],
    branches: Sequence[Branch],
    costs: Sequence[float],
) -> dict[str, Errors]:
    """The loss of every matrix of the layers in every format that may be its.

    costs  divergence of each branch, in order
    """
    by_kind: dict[str, NDArray[np.float64]] = {}
    for kind in KINDS:
        found = {
            branch.layer: cost / measures[branch.layer].noise[kind]
            for branch, cost in zip(branches, costs, strict=True)
            if branch.kind == kind and measures[branch.layer].noise[kind] > 0
        }
        by_kind[kind] = factors(n_layers, found) if found else np.zeros(n_layers)  # a part that adds nothing
    losses: dict[str, Errors] = {}
    for n, measured in enumerate(measures):
        for name, errors in measured.errors.items():
            factor = by_kind[KIND_OF.get(name.rpartition(".")[2], "attention")][n]
            losses[name] = {row: float(factor * error) for row, error in errors.items()}
    return losses


def embed_losses(source: Source, ops: NativeOps, noise: float, cost: float) -> Errors:
    """Of embed, from what noise in the tokens' embeddings cost."""
    weight = source.weight("embed")
    factor = cost / noise if noise > 0 else 0.0
    return {row.name: factor * row_error(ops, weight, row) for row in candidates(weight.shape)}


def lm_head_importance(source: Source, ops: NativeOps, hidden: F32Array) -> F32Array:
    """[dim] how much each of its inputs counts, from the calibration tokens' final hidden states [T, D]."""
    normed = ops.rms_norm(np.ascontiguousarray(hidden), source.leaf("norm"), source.config.norm_eps)
    inputs = Mean(np.zeros(normed.shape[1]))
    inputs.add(normed, np.ones(len(normed), dtype=np.float32))
    return inputs.drawn_to(np.ones_like(inputs.total))


def lm_head_losses(source: Source, ops: NativeOps, hidden: F32Array, importance: F32Array) -> Errors:
    """Of lm_head, by rounding it: mean divergence over final hidden states [T, D]."""
    normed = ops.rms_norm(np.ascontiguousarray(hidden), source.leaf("norm"), source.config.norm_eps)
    weight = source.weight("lm_head")
    rows = candidates(weight.shape)
    sums = dict.fromkeys((row.name for row in rows), 0.0)
    for part in _chunks(normed):
        logits = {name: np.empty((len(part), weight.shape[0]), dtype=np.float32) for name in ("", *sums)}
        for start, block in blocks(weight):
            stop = start + len(block)
            logits[""][:, start:stop] = product(ops, part, block)
            for row in rows:
                logits[row.name][:, start:stop] = product(ops, part, rounded(ops, block, row, importance))
        exact = log_softmax(logits[""])
        for name in sums:
            sums[name] += float(divergence(exact, log_softmax(logits[name])).sum())
    source.release("lm_head")
    return {name: total / len(normed) for name, total in sums.items()}


def _chunks(x: F32Array) -> Iterator[F32Array]:
    for at in range(0, len(x), CHUNK):
        yield x[at : at + CHUNK]
