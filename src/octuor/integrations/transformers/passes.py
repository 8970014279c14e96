"""Rows and columns of tokens through the model: as few passes as memory allows, nothing for padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor import model as forward_pass
from octuor.api import Model
from octuor.batch import step
from octuor.generate import pieces
from octuor.integrations.transformers.cache import SequencesCache, shared_rows
from octuor.ops import LayerRouting


@dataclass(frozen=True)
class Rows:
    """What a call gives.

    logits         [B, kept, V] float32, 0 for padding
    router_logits  L arrays [B * S, E] float32, 0 for padding; empty if not asked for
    """

    logits: NDArray[np.float32]
    router_logits: Sequence[NDArray[np.float32]]


def run(
    model: Model,
    cache: SequencesCache,
    ids: NDArray[np.int32],
    mask: NDArray[np.bool_],
    columns: NDArray[np.int64],
    *,
    with_routes: bool,
) -> Rows:
    """Append the tokens of ids [B, S] where mask [B, S] says so; logits of the columns [kept]."""
    config, (ops, _) = model.config, model.ops_of(None)
    tokens = [row[is_token] for row, is_token in zip(ids, mask, strict=True)]
    logits = np.zeros((len(ids), len(columns), config.vocab_size), dtype=np.float32)
    n_routed = config.n_layers if with_routes and not config.is_dense else 0
    router_logits = [np.zeros((*ids.shape, config.n_experts), dtype=np.float32) for _ in range(n_routed)]
    kept_at = np.full(ids.shape[1], -1)
    kept_at[columns] = np.arange(len(columns))
    first = shared_rows(tokens, cache)
    own = [row for row, same in enumerate(first) if row == same]
    cache.make_room(ids.shape[1])
    for work in _passes([(row, len(tokens[row])) for row in own], model.chunk):
        where = [(row, column) for row, part in work for column in np.flatnonzero(mask[row])[part]]
        wanted = [at for at, (_, column) in enumerate(where) if kept_at[column] >= 0]
        rows = np.asarray(wanted or [0], dtype=np.int32)  # a pass needs a row, wanted or not
        batch = step(cache.pool, [(cache.sequences[row], tokens[row][part].tolist()) for row, part in work])

        def note(layer: int, routing: LayerRouting, where: list[tuple[int, int]] = where) -> None:
            router_logits[layer][tuple(np.transpose(where))] = ops.to_numpy(routing.logits)

        hidden = forward_pass.forward(ops, model.weights, config, batch, note if n_routed else None, rows)
        if wanted:
            found = ops.to_numpy(forward_pass.logits(ops, model.weights, hidden))
            for at, values in zip(wanted, found, strict=True):
                row, column = where[at]
                logits[row, kept_at[column]] = values
    for row, same in enumerate(first):
        if row != same:  # holds nothing yet
            cache.sequences[row] = cache.pool.fork(cache.sequences[same])
            logits[row] = logits[same]
            for layer in router_logits:
                layer[row] = layer[same]
    cache.extend(mask)
    return Rows(logits, [layer.reshape(-1, config.n_experts) for layer in router_logits])


def _passes(rows: Sequence[tuple[int, int]], chunk: int) -> Iterator[list[tuple[int, slice]]]:
    """Parts of rows (number, length) for one pass after another, each of about `chunk` tokens."""
    work: list[tuple[int, slice]] = []
    room = chunk
    for row, length in rows:
        for start, stop in pieces(0, length, chunk):
            if stop - start > room and work:
                yield work
                work, room = [], chunk
            work.append((row, slice(start, stop)))
            room -= stop - start
    if work:
        yield work
