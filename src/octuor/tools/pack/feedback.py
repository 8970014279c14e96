"""Writing with error feedback, `--quality best`: what rounding one input loses, inputs rounded later make up for.

That needs the inputs' products with each other, which are too many to keep: 8x7B's would be 230 GB. So the calibration
text walks through the source a second time, and each matrix is rounded and written while its inputs are there. An
expert's down has a Hessian in blocks along its diagonal, WINDOW inputs wide: 14336 squared would be 0.8 GB, and its
factors as much again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octuor.batch import Batch
from octuor.checkpoint.pack import PackInParts
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps
from octuor.quant import Format
from octuor.quant.base import Array
from octuor.quant.feedback import quantize_with_feedback
from octuor.tools.convert import Progress
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.measure import STARVED
from octuor.tools.pack.rounding import lightness
from octuor.tools.pack.walk import F32Array, Ids, Source, Walk, Watch
from octuor.tools.pack.write import WRITTEN, quantized_pieces, stages
from octuor.weights import Leaf

WINDOW = 4096  # inputs that make up for each other
ROWS = 8192  # rounded at once: 128 MiB as float32 where there are 4096 inputs, and two copies of it
STATE = "feedback"  # in the journal


def write_with_feedback(
    source: Source,
    ops: NativeOps,
    formats: Mapping[str, Format],
    importance: Mapping[str, F32Array],
    sequences: Sequence[Ids],
    file: PackInParts,
    journal: Journal,
    progress: Progress | None = None,
) -> None:
    """As write.write_layers, with the calibration sequences to walk through the source."""
    outside, *layers = stages(source)
    sizes = [sum(source.weight(name).nbytes for name in names) for names in (outside, *layers)]
    walk = _resume(source, journal) if file.resumed else None

    def count(n_done: int) -> None:
        if progress is not None:
            progress(sum(sizes[:n_done]), sum(sizes))

    if walk is None:
        for name in outside:
            pieces = quantized_pieces(source, ops, name, formats[name], importance.get(name), lambda _: None)
            file.write(name, pieces)
        walk = Walk.start(source, sequences)
    for n in range(walk.at, len(layers)):
        count(n + 1)
        walk.step(_Writer(walk, ops, formats, importance, file))
        file.sync()
        journal.keep(STATE, {"at": np.array(walk.at), "x": walk.x, "tokens": walk.batch.tokens,
                             "positions": walk.batch.positions, "starts": walk.batch.starts})  # fmt: skip
        journal.note(WRITTEN, n + 2)
    count(len(sizes))


@dataclass
class Hessian:
    """Sums of x x^T over tokens, each by its weight: blocks [n, b, b] along the diagonal, b at most WINDOW."""

    n_inputs: int

    def __post_init__(self) -> None:
        n_blocks = -(-self.n_inputs // WINDOW)
        width = min(self.n_inputs, WINDOW)
        self.blocks = np.zeros((n_blocks, width, width), dtype=np.float32)
        self.n_tokens = 0

    def add(self, x: F32Array, weights: F32Array) -> None:
        """x [t, in], weights [t]."""
        scaled = x * np.sqrt(weights)[:, None]
        for n, block in enumerate(self.blocks):
            part = scaled[:, n * WINDOW : (n + 1) * WINDOW]
            block[: part.shape[1], : part.shape[1]] += part.T @ part
        self.n_tokens += len(x)

    def shrunk(self) -> F32Array:
        """Off the diagonal, less of what fewer tokens say than there are inputs: chance agrees with itself, too."""
        share = np.float32(self.n_tokens / (self.n_tokens + self.blocks.shape[1]))
        found = self.blocks * share
        for block, exact in zip(found, self.blocks, strict=True):
            np.fill_diagonal(block, exact.diagonal())
        return found if len(found) > 1 else found[0]


class _Writer(Watch):
    """Rounds and writes the matrices of the layer that a walk is in."""

    def __init__(
        self,
        walk: Walk,
        ops: NativeOps,
        formats: Mapping[str, Format],
        importance: Mapping[str, F32Array],
        file: PackInParts,
    ) -> None:
        config = walk.source.config
        self._walk, self._ops, self._file = walk, ops, file
        self._formats, self._importance = formats, importance
        self._at = f"layers.{walk.at}."
        self._into_attention = Hessian(config.dim)
        self._into_wo = Hessian(config.n_heads * config.head_dim)
        self._into_down = Hessian(config.hidden_dim)

    def attending(self, rows: slice, x: F32Array) -> None:
        """What wq, wk and wv are multiplied by."""
        self._into_attention.add(x, lightness(self._walk.x[rows]))

    def attended(self, rows: slice, x: F32Array, out: F32Array) -> None:  # noqa: ARG002
        """What wo is multiplied by."""
        self._into_wo.add(x, lightness(self._walk.x[rows]))

    def routed(self, x: F32Array, routing: LayerRouting) -> None:
        """Attention has been through the layer: its matrices are written, and all that is not quantized."""
        self._x, self._routing, self._weights = x, routing, lightness(self._walk.x)
        for part in ("wq", "wk", "wv"):
            self._round(self._at + part, self._into_attention)
        self._round(self._at + "wo", self._into_wo)
        for part in ("attention_norm", "moe_norm", "router"):
            if self._at + part in self._formats:
                self._round(self._at + part, None)

    def played(self, expert: int, rows: Ids, weights: F32Array, hidden: F32Array, out: F32Array) -> None:  # noqa: ARG002
        """What down is multiplied by."""
        self._into_down.add(hidden, np.square(weights) * self._weights[rows])

    def expert_done(self, expert: int, gate: Leaf, up: Leaf, down: Leaf) -> None:  # noqa: ARG002
        """Its three matrices are written."""
        config = self._walk.source.config
        chosen = self._routing.experts == expert
        rows = np.flatnonzero(chosen.any(axis=1))
        is_fed = len(rows) >= STARVED
        loudness = np.where(chosen[rows], self._routing.weights[rows], 0).sum(axis=1)
        inputs = Hessian(config.dim)
        inputs.add(self._x[rows], np.square(loudness) * self._weights[rows])
        at = f"{self._at}experts.{expert}."
        for part, hessian in (("gate", inputs), ("up", inputs), ("down", self._into_down)):
            self._round(at + part, hessian if is_fed else None)
        self._into_down = Hessian(config.hidden_dim)

    def _round(self, name: str, hessian: Hessian | None) -> None:
        row = self._formats[name]
        if hessian is None or not row.is_tiled or row.is_by_rows:
            importance = self._importance.get(name)
            pieces = quantized_pieces(self._walk.source, self._ops, name, row, importance, lambda _: None)
        else:
            pieces = self._fed_back(name, row, hessian.shrunk())
        self._file.write(name, pieces)

    def _fed_back(self, name: str, row: Format, hessian: F32Array) -> Iterator[Array]:
        weight = self._walk.source.weight(name)
        for start in range(0, weight.shape[0], ROWS):
            block = weight.rows(start, min(start + ROWS, weight.shape[0])).to_f32()
            yield quantize_with_feedback(block, row, hessian, self._ops.round_block)


def _resume(source: Source, journal: Journal) -> Walk | None:
    if STATE not in journal:
        return None
    state = journal.arrays(STATE)
    batch = Batch(state["tokens"], state["positions"], state["starts"])
    return Walk(source, batch, state["x"], int(state["at"]))
