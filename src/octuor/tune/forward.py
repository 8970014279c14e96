"""The forward pass of a step: model.py's layers, whose insides may be computed twice instead of kept.

T tokens of all sequences on one flat axis, so none is padding; R of them whose next token the loss counts; D dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from octuor import model
from octuor.batch import Batch, whole
from octuor.config import ModelConfig
from octuor.ops import LayerRouting
from octuor.ops.torch import TorchOps
from octuor.train.loss import balance_loss
from octuor.tune.encode import Piece
from octuor.weights import Layer, Weights


@dataclass(frozen=True)
class Turn:
    """Sequences of one forward pass, flat.

    rows     [R] int32, of the batch's tokens: those whose next token the loss counts
    targets  [R] int64, that token
    owners   [R] int64, which sequence it belongs to
    """

    batch: Batch
    rows: NDArray[np.int32]
    targets: Tensor
    owners: Tensor
    n_sequences: int


def make_turn(pieces: list[Piece]) -> Turn:
    """Lay sequences one after another; attention keeps them apart by their starts, so nothing is padded."""
    learned = np.concatenate([piece.learned[1:] for piece in pieces])
    targets = np.concatenate([piece.ids[1:] for piece in pieces])
    owners = np.repeat(np.arange(len(pieces)), [len(piece.ids) - 1 for piece in pieces])
    return Turn(
        batch=whole([piece.ids[:-1] for piece in pieces]),
        rows=np.flatnonzero(learned).astype(np.int32),
        targets=torch.from_numpy(targets[learned].astype(np.int64)),
        owners=torch.from_numpy(owners[learned]),
        n_sequences=len(pieces),
    )


def hidden_states(
    ops: TorchOps,
    weights: Weights,
    config: ModelConfig,
    batch: Batch,
    wanted: NDArray[np.int32],
    *,
    checkpointing: bool,
    balanced: bool,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states [R, D] of the wanted rows [R], and the mean over layers of the load-balancing loss.

    checkpointing  keep each layer's input only and compute the layer again for gradients
    balanced       whether that loss is wanted; then the last layer's experts run for all tokens, for they all count
                   in it. None where it is not, and of dense models
    """
    balances: list[Tensor] = []
    is_balanced = balanced and not config.is_dense
    x = ops.embed(batch.tokens, weights.embed)
    for n, layer in enumerate(weights.layers):
        rows = wanted if n == config.n_layers - 1 and not is_balanced else None

        # what a layer is made of is bound as defaults: it may run again when this loop has gone on
        def run(
            x: Tensor, n: int = n, layer: Layer = layer, rows: NDArray[np.int32] | None = rows
        ) -> tuple[Tensor, ...]:
            found: list[Tensor] = []

            def watch(_: int, routing: LayerRouting) -> None:
                if is_balanced:
                    found.append(balance_loss(routing))

            x = model.block(ops, layer, config, x, batch, n, watch, rows)
            return (x, *found)

        y = checkpoint(run, x, use_reentrant=False) if checkpointing else run(x)
        x = y[0]
        balances += y[1:]
    if is_balanced:
        x = x[wanted]
    return ops.rms_norm(x, weights.norm, config.norm_eps), torch.stack(balances).mean() if balances else None
