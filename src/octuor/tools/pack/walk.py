"""A forward pass that holds one matrix at a time: hidden states wait, layers come to them one by one.

T tokens of all sequences, D dim, F hidden_dim, E experts, A experts a token.
Every expert is read once for all tokens, whatever their number, so a model of any size runs in the memory of its
hidden states. The numbers are those of model.forward, whose pieces this calls in its order; a Watch sees them go by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from octuor import model
from octuor.batch import Batch, whole
from octuor.checkpoint.base import Checkpoint, contiguous
from octuor.checkpoint.files import drop_pages
from octuor.errors import CheckpointError
from octuor.ops import LayerRouting, Ops
from octuor.weights import Layer, Leaf, Weight

F32Array = NDArray[np.float32]
Ids = NDArray[np.int32]

CHUNK_TOKENS = 2048  # at work at once: [2048, F] of 8x7B is 117 MB, and there are three of them


class Source:
    """A checkpoint's weights as a backend's leaves, taken one by one and let go one by one."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops) -> None:
        self.checkpoint, self.config, self.ops = checkpoint, checkpoint.config, ops

    def weight(self, name: str) -> Weight:
        """The weight as it is stored."""
        return self.checkpoint.get(name)

    def leaf(self, name: str) -> Leaf:
        """A leaf over the mapped file; of a format that the kernels do not run, over a copy."""
        return self.ops.put(contiguous(self.weight(name)))

    def release(self, *names: str) -> None:
        """Let the pages of weights go that have been used."""
        for name in names:
            weight = self.weight(name)
            for array in (weight.data, *weight.parts.values()):
                drop_pages(array)


class Watch:
    """What may be seen, and changed in place, while a layer runs; does nothing by itself.

    rows are the tokens' places in Walk.x, int or slice; all arrays are float32.
    """

    def attending(self, rows: slice, x: F32Array) -> None:
        """x [T, D], normed: what wq, wk and wv are multiplied by."""

    def attended(self, rows: slice, x: F32Array, out: F32Array) -> None:
        """x [T, H * C]: what wo is multiplied by; out [T, D]: what the residual stream is about to gain."""

    def routed(self, x: F32Array, routing: LayerRouting) -> None:
        """x [T, D] of all tokens, normed: what the experts are multiplied by."""

    def projected(self, expert: int, rows: Ids, gate: F32Array, up: F32Array) -> None:
        """gate and up [t, F] of the tokens that have chosen the expert."""

    def played(self, expert: int, rows: Ids, weights: F32Array, hidden: F32Array, out: F32Array) -> None:
        """hidden [t, F]: what down is multiplied by; out [t, D] with weights [t]: what these tokens gain."""

    def expert_done(self, expert: int, gate: Leaf, up: Leaf, down: Leaf) -> None:
        """Its weights are about to be let go."""


class Walk:
    """Sequences on their way through a model.

    x      [T, D] hidden states, before layer `at`
    batch  whose tokens they are
    """

    def __init__(self, source: Source, batch: Batch, x: F32Array, at: int = 0) -> None:
        self.source, self.batch, self.x, self.at = source, batch, x, at

    @classmethod
    def start(cls, source: Source, sequences: Sequence[Ids]) -> Walk:
        """Sequences before the first layer."""
        batch = whole(sequences)
        x = source.ops.to_numpy(source.ops.embed(batch.tokens, source.leaf("embed")))
        source.release("embed")
        return cls(source, batch, x)

    def branch(self, rows: Sequence[slice]) -> slice:
        """Add sequences that begin as copies of these, each from its first token on; returns their rows."""
        first = len(self.x)
        lengths = [part.stop - part.start for part in rows]
        self.x = np.concatenate([self.x, *(self.x[part] for part in rows)])
        old = self.batch
        self.batch = Batch(
            np.concatenate([old.tokens, *(old.tokens[part] for part in rows)]),
            np.concatenate([old.positions, *(old.positions[part] for part in rows)]),
            np.concatenate([old.starts, first + np.cumsum(lengths)]).astype(np.int32),
        )
        return slice(first, len(self.x))

    def step(self, watch: Watch | None = None) -> None:
        """Run one layer. CheckpointError if it makes numbers that are not finite."""
        watch = watch or Watch()
        self._attend(watch)
        self._feed_forward(watch)
        if not np.isfinite(self.x).all():
            raise CheckpointError(
                f"{self.source.checkpoint.source}: layer {self.at}: expected finite activations, found others; "
                "are its weights whole?"
            )
        self.at += 1

    def _attend(self, watch: Watch) -> None:
        source, ops, config, at = self.source, self.source.ops, self.source.config, f"layers.{self.at}."
        parts = ("attention_norm", "wq", "wk", "wv", "wo", "moe_norm")
        layer = Layer(**{part: source.leaf(at + part) for part in parts}, router=None, experts=())
        for rows, batch in self._chunks():
            x = ops.rms_norm(self.x[rows], layer.attention_norm, config.norm_eps)
            watch.attending(rows, x)
            mixed = model.attention(ops, layer, config, x, batch, self.at)
            out = ops.linear(mixed, layer.wo)
            watch.attended(rows, mixed, out)
            self.x[rows] += out
        source.release(*(at + part for part in parts))

    def _feed_forward(self, watch: Watch) -> None:
        source, ops, config, at = self.source, self.source.ops, self.source.config, f"layers.{self.at}."
        x = ops.rms_norm(self.x, source.leaf(at + "moe_norm"), config.norm_eps)
        router = None if config.is_dense else source.leaf(at + "router")
        routing = ops.route(x, router, config.n_experts_per_token)
        watch.routed(x, routing)
        for e in range(config.n_experts):
            names = [f"{at}experts.{e}.{part}" for part in ("gate", "up", "down")]
            gate, up, down = (source.leaf(name) for name in names)
            tokens, ranks = np.nonzero(routing.experts == e)
            for start in range(0, len(tokens), CHUNK_TOKENS):
                rows = tokens[start : start + CHUNK_TOKENS].astype(np.int32)
                loudness = routing.weights[rows, ranks[start : start + CHUNK_TOKENS]]
                opened, raised = ops.linear(x[rows], gate), ops.linear(x[rows], up)
                watch.projected(e, rows, opened, raised)
                hidden = silu(opened) * raised
                out = ops.linear(hidden, down)
                watch.played(e, rows, loudness, hidden, out)
                self.x[rows] += loudness[:, None] * out
            watch.expert_done(e, gate, up, down)
            del gate, up, down
            source.release(*names)

    def _chunks(self) -> Iterator[tuple[slice, Batch]]:
        """Whole sequences, up to CHUNK_TOKENS tokens together, as batches of their own."""
        starts = self.batch.starts
        first = 0
        while first < len(starts) - 1:
            fits = int(np.searchsorted(starts, starts[first] + CHUNK_TOKENS, side="right")) - 1
            last = max(fits, first + 1)
            rows = slice(int(starts[first]), int(starts[last]))
            yield (
                rows,
                Batch(self.batch.tokens[rows], self.batch.positions[rows], (starts[first : last + 1] - rows.start)),
            )
            first = last


def silu(x: F32Array) -> F32Array:
    """x * sigmoid(x), without overflow."""
    return np.asarray(x * (np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))), dtype=np.float32)


def log_probabilities(source: Source, hidden: F32Array) -> F32Array:
    """Log-probabilities of the next token, [T, V] float32, of hidden states [T, D] after the last layer."""
    ops, config = source.ops, source.config
    normed = ops.rms_norm(np.ascontiguousarray(hidden), source.leaf("norm"), config.norm_eps)
    return log_softmax(ops.to_numpy(ops.linear(normed, source.leaf("lm_head"))))


def log_softmax(logits: F32Array) -> F32Array:
    """Logarithms of the softmax over the last axis."""
    lowered = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(lowered).sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray(lowered - np.log(total), dtype=np.float32)
