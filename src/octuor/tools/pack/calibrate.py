"""Measuring a whole model: the walk through its layers with its branches, and the losses that come of it.

What each layer gave is kept in a journal, so that a measurement that was interrupted goes on at the layer it was in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor.batch import Batch
from octuor.ops.native import NativeOps
from octuor.quant.base import Array
from octuor.tools.convert import Progress
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.measure import (
    KINDS,
    NOISE,
    LayerMeasures,
    disturb,
    measure_layer,
    probe_rows,
    probed_layers,
)
from octuor.tools.pack.rounding import Errors
from octuor.tools.pack.sensitivity import (
    Branch,
    divergences,
    embed_losses,
    lm_head_importance,
    lm_head_losses,
    matrix_losses,
)
from octuor.tools.pack.text import Corpus
from octuor.tools.pack.walk import F32Array, Source, Walk
from octuor.weights import weight_shapes

STATE, RESULT = "walk", "losses"  # names in the journal


@dataclass(frozen=True)
class Calibration:
    """What is known of a model before its formats are chosen.

    losses      canonical name -> format -> nats a token that it costs, for every matrix but the routers
    importance  canonical name -> [in] float32; a matrix without is quantized by its weights alone
    counts      [L, E] calibration tokens that chose each expert
    held_out    [T, D] float32 the source's final hidden states of the held-out passages
    """

    losses: Mapping[str, Errors]
    importance: Mapping[str, F32Array]
    counts: NDArray[np.int64]
    held_out: F32Array


def calibrate(
    source: Source, ops: NativeOps, corpus: Corpus, journal: Journal, progress: Progress | None = None
) -> Calibration:
    """Walk the corpus through the source and measure on the way.

    progress  called after each layer with bytes of weights done and in all
    """
    sequences = (*corpus.calibration, *corpus.held_out)
    n_calibration = sum(map(len, corpus.calibration))
    n_held_out = sum(map(len, corpus.held_out))
    probe = probe_rows(corpus.calibration)
    n_layers = source.config.n_layers
    sizes = layer_bytes(source)
    done = 0
    walk, branches = _resume(source, journal) or _begin(source, sequences, probe)
    measures = []
    for n in range(n_layers):
        if n < walk.at:
            measures.append(read_measures(journal.arrays(f"layer-{n}")))
        else:
            own = _branch_layer(walk, probe, branches, n)
            measures.append(measure_layer(walk, ops, n_calibration, probe, own))
            journal.keep(f"layer-{n}", measures_as_arrays(measures[-1]))
            _save(journal, walk, branches)
        done += sizes[n]
        if progress is not None:
            progress(done, sum(sizes))
    importance = {name: values for measured in measures for name, values in measured.importance.items()}
    importance["lm_head"] = lm_head_importance(source, ops, walk.x[:n_calibration])
    if RESULT in journal:
        losses = {name: dict(errors) for name, errors in journal.value(RESULT).items()}
    else:
        losses = _losses(source, ops, walk.x, probe, branches, measures, importance["lm_head"])
        journal.note(RESULT, losses)
    return Calibration(
        losses,
        importance,
        np.stack([measured.counts for measured in measures]),
        walk.x[n_calibration : n_calibration + n_held_out].copy(),
    )


def layer_bytes(source: Source) -> list[int]:
    """Bytes that each layer's weights take as they are stored."""
    sizes = [0] * source.config.n_layers
    for name, _ in weight_shapes(source.config):
        if name.startswith("layers."):
            sizes[int(name.split(".")[1])] += source.weight(name).nbytes
    return sizes


def _begin(source: Source, sequences: Sequence[NDArray[np.int32]], probe: Sequence[slice]) -> tuple[Walk, list[Branch]]:
    """A walk at its first layer, with the embeddings' branch."""
    walk = Walk.start(source, sequences)
    rows = walk.branch(probe)
    part = walk.x[rows]
    disturb(part, np.random.default_rng([source.config.n_layers]))
    walk.x[rows] = part
    return walk, [Branch("embed", 0, rows)]


def _branch_layer(walk: Walk, probe: Sequence[slice], branches: list[Branch], n: int) -> dict[str, slice]:
    """This layer's branches, kind -> rows; adds them to `branches`."""
    if n not in probed_layers(walk.source.config.n_layers):
        return {}
    own = {kind: walk.branch(probe) for kind in KINDS}
    branches += [Branch(kind, n, rows) for kind, rows in own.items()]
    return own


def _losses(
    source: Source,
    ops: NativeOps,
    x: F32Array,
    probe: Sequence[slice],
    branches: Sequence[Branch],
    measures: Sequence[LayerMeasures],
    into_lm_head: F32Array,
) -> dict[str, Errors]:
    costs = divergences(source, x, probe, branches)
    losses = matrix_losses(source.config.n_layers, measures, branches[1:], costs[1:])
    tokens = np.concatenate([x[part] for part in probe])
    losses["embed"] = embed_losses(source, ops, float(NOISE) ** 2, costs[0])
    losses["lm_head"] = lm_head_losses(source, ops, tokens, into_lm_head)
    return losses


# ---- the journal ---------------------------------------------------------------------------------


def _save(journal: Journal, walk: Walk, branches: Sequence[Branch]) -> None:
    """Where the walk is."""
    batch = walk.batch
    kinds = ("embed", *KINDS)
    found = [(kinds.index(branch.kind), branch.layer, branch.rows.start, branch.rows.stop) for branch in branches]
    journal.keep(
        STATE,
        {
            "at": np.array(walk.at), "x": walk.x, "tokens": batch.tokens, "positions": batch.positions,
            "starts": batch.starts, "branches": np.array(found),
        },
    )  # fmt: skip


def _resume(source: Source, journal: Journal) -> tuple[Walk, list[Branch]] | None:
    """The walk that a journal has; None where it has none."""
    if STATE not in journal:
        return None
    state = journal.arrays(STATE)
    batch = Batch(state["tokens"], state["positions"], state["starts"])
    walk = Walk(source, batch, state["x"], int(state["at"]))
    kinds = ("embed", *KINDS)
    rows = state["branches"].tolist()
    return walk, [Branch(kinds[kind], layer, slice(start, stop)) for kind, layer, start, stop in rows]


def measures_as_arrays(measures: LayerMeasures) -> dict[str, Array]:
    """For Journal.keep; read_measures undoes it."""
    found: dict[str, Array] = {"counts": measures.counts}
    for name, values in measures.importance.items():
        found[f"importance {name}"] = values
    for name, errors in measures.errors.items():
        for row, error in errors.items():
            found[f"error {name} {row}"] = np.array(error)
    for kind, noise in measures.noise.items():
        found[f"noise {kind}"] = np.array(noise)
    return found


def read_measures(arrays: Mapping[str, Array]) -> LayerMeasures:
    """What measures_as_arrays was given."""
    importance: dict[str, F32Array] = {}
    errors: dict[str, Errors] = {}
    noise: dict[str, float] = {}
    for key, values in arrays.items():
        what, *names = key.split(" ")
        if what == "importance":
            importance[names[0]] = values
        elif what == "error":
            errors.setdefault(names[0], {})[names[1]] = float(values)
        elif what == "noise":
            noise[names[0]] = float(values)
    return LayerMeasures(arrays["counts"], importance, errors, noise)
