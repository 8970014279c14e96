"""Measuring one layer as it runs: how much each input counts, what each format costs, what noise does to the answer.

T tokens, D dim, F hidden_dim. Three kinds of figures:

    importance  root of the mean square of each input over the calibration tokens, each token by how much it weighs in
                the residual stream. What few tokens say is drawn towards the layer's average (for gate and up) or
                towards all inputs alike, as if FAITH tokens had said that; an expert that fewer than STARVED tokens
                chose is quantized by its weights alone.
    errors      as rounding.py has them, for each matrix and format, times the share of tokens that meet the matrix;
                that share, too, is drawn towards what the router would give to all experts alike.
    noise       a copy of a few sequences is disturbed at one place and runs beside the others to the end, where its
                divergence from the undisturbed ones says what an error at that place costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from octuor.batch import whole
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps
from octuor.quant import find_in_packs
from octuor.tools.pack.rounding import Errors, ExpertSample, attention_errors, expert_errors, lightness
from octuor.tools.pack.walk import F32Array, Ids, Walk, Watch
from octuor.weights import Leaf

NOISE = np.float32(0.1)  # of the root mean square it is added to: about that of 3 to 4 bits
FAITH = 32  # tokens
STARVED = 8  # tokens
# Power of a mean square that counts. The whole of it fits the text that was measured on: on the pocket model's experts
# in q3 it lowers KL by 16 % on that kind of text and by 11 % on others; the root lowers it by 17 % on both.
TEMPER = 0.5
SAMPLED_TOKENS = 128  # of an expert, to measure errors on
PROBE_PASSAGES, PROBE_LENGTH = 4, 96  # tokens whose copies are disturbed
PROBED_LAYERS = 8
KINDS = ("attention", "hidden", "output")  # where a layer is disturbed: wo's output, gate's and up's, down's
ATTENTION_FORMATS = tuple(find_in_packs(name) for name in ("q4", "q5", "q6", "q8", "gguf-q8_0"))


@dataclass(frozen=True)
class LayerMeasures:
    """What was found in one layer.

    counts      [E] calibration tokens that chose each expert
    importance  canonical name -> [in] float32, of mean 1; none for a starved expert's matrices
    errors      canonical name -> format -> error
    noise       kind -> error that the noise made, in the errors' own measure; empty in layers that are not probed
    """

    counts: NDArray[np.int64]
    importance: Mapping[str, F32Array]
    errors: Mapping[str, Errors]
    noise: Mapping[str, float]


@dataclass
class Mean:
    """A weighted mean of squares over tokens, one value an input."""

    total: NDArray[np.float64]
    weight: float = 0.0
    n_tokens: int = 0

    def add(self, x: F32Array, weights: F32Array) -> None:
        """x [t, in], weights [t]."""
        self.total += weights.astype(np.float64) @ np.square(x, dtype=np.float64)
        self.weight += float(weights.sum(dtype=np.float64))
        self.n_tokens += len(x)

    def drawn_to(self, other: NDArray[np.float64]) -> F32Array:
        """How much each input counts, mean 1, as if FAITH more tokens had said `other`, which has a mean of 1."""
        own = normalized(self.total)
        mixed = (self.n_tokens * own + FAITH * other) / (self.n_tokens + FAITH)
        return normalized(mixed**TEMPER).astype(np.float32)


def normalized(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """x over its mean; ones where there is nothing to see."""
    mean = x.mean()
    return x / mean if np.isfinite(mean) and mean > 0 else np.ones_like(x)


def probed_layers(n_layers: int) -> tuple[int, ...]:
    """The layers that are disturbed: all, or some evenly spaced with the first and last among them."""
    return tuple(int(n) for n in np.unique(np.linspace(0, n_layers - 1, min(PROBED_LAYERS, n_layers)).round()))


def probe_rows(sequences: Sequence[Ids]) -> list[slice]:
    """The beginnings of a few sequences, evenly spaced, as rows of a walk over them."""
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences])])
    chosen = np.unique(np.linspace(0, len(sequences) - 1, min(PROBE_PASSAGES, len(sequences))).astype(int))
    return [slice(int(starts[n]), int(min(starts[n] + PROBE_LENGTH, starts[n + 1]))) for n in chosen]


def disturb(x: F32Array, rng: np.random.Generator) -> None:
    """Add noise of NOISE times each row's root mean square, in place."""
    size = NOISE * np.sqrt(np.square(x).mean(axis=1, keepdims=True))
    x += size * rng.standard_normal(x.shape, dtype=np.float32)


def weighted_change(found: F32Array, exact: F32Array, weights: F32Array) -> float:
    """Mean over tokens of the squared difference, times the token's weight."""
    return float((np.square(found - exact).sum(axis=1, dtype=np.float64) * weights).mean())


def measure_layer(
    walk: Walk, ops: NativeOps, n_calibration: int, probe: Sequence[slice], branches: Mapping[str, slice]
) -> LayerMeasures:
    """Take the walk through its next layer and measure on the way.

    n_calibration  the first tokens of the walk; those after them are only carried along
    probe          rows whose copies `branches` (kind -> rows) are disturbed in this layer
    """
    n = walk.at
    before = np.concatenate([walk.x[part] for part in probe])
    batch = whole([walk.batch.tokens[part] for part in probe])
    watch = LayerWatch(walk, ops, n_calibration, branches)
    walk.step(watch)
    errors = dict(watch.errors)
    errors |= attention_errors(walk.source, ops, n, before, batch, ATTENTION_FORMATS, watch.importance)
    exact = np.concatenate([walk.x[part] for part in probe])
    weights = np.concatenate([watch.weights[part] for part in probe])
    noise = {kind: weighted_change(walk.x[rows], exact, weights) for kind, rows in branches.items()}
    if "attention" in branches:  # what the experts make of it is the answer's business, not the error's
        noise["attention"] = watch.attention_noise
    return LayerMeasures(watch.counts, watch.importance, errors, noise)


@dataclass
class LayerWatch(Watch):
    """Sees one layer. n_calibration and branches as in measure_layer."""

    walk: Walk
    ops: NativeOps
    n_calibration: int
    branches: Mapping[str, slice]
    importance: dict[str, F32Array] = field(default_factory=dict)
    errors: dict[str, Errors] = field(default_factory=dict)
    attention_noise: float = 0.0

    def __post_init__(self) -> None:
        config = self.walk.source.config
        self.at = f"layers.{self.walk.at}."
        self.rng = np.random.default_rng([self.walk.at])
        self.counts = np.zeros(config.n_experts, dtype=np.int64)
        self._into_attention = Mean(np.zeros(config.dim))
        self._into_wo = Mean(np.zeros(config.n_heads * config.head_dim))
        self._into_experts = Mean(np.zeros(config.dim))
        self._into_down = [Mean(np.zeros(config.hidden_dim)) for _ in range(config.n_experts)]

    def attending(self, rows: slice, x: F32Array) -> None:
        """How much each input of wq, wk and wv counts."""
        own = self._calibration(rows)
        self._into_attention.add(x[: own.stop - own.start], lightness(self.walk.x[own]))

    def attended(self, rows: slice, x: F32Array, out: F32Array) -> None:
        """How much each input of wo counts; the branch's noise."""
        own = self._calibration(rows)
        self._into_wo.add(x[: own.stop - own.start], lightness(self.walk.x[own]))
        branch = self.branches.get("attention", slice(0, 0))
        first, last = max(rows.start, branch.start), min(rows.stop, branch.stop)
        if first < last:
            part = out[first - rows.start : last - rows.start]
            exact = part.copy()
            disturb(part, self.rng)
            change = np.square(part - exact).sum(axis=1, dtype=np.float64) * lightness(self.walk.x[first:last])
            self.attention_noise += float(change.sum() / (branch.stop - branch.start))

    def routed(self, x: F32Array, routing: LayerRouting) -> None:
        """Who goes where; how much each input of the experts counts on average."""
        self._x, self._routing = x, routing
        self.weights = lightness(self.walk.x)
        chosen = routing.experts[: self.n_calibration]
        self.counts += np.bincount(chosen.reshape(-1), minlength=len(self.counts))
        self._into_experts.add(x[: self.n_calibration], self.weights[: self.n_calibration])
        flat_attention, flat_wo = np.ones_like(self._into_attention.total), np.ones_like(self._into_wo.total)
        into_attention = self._into_attention.drawn_to(flat_attention)
        self.importance |= {self.at + part: into_attention for part in ("wq", "wk", "wv")}
        self.importance[self.at + "wo"] = self._into_wo.drawn_to(flat_wo)

    def projected(self, expert: int, rows: Ids, gate: F32Array, up: F32Array) -> None:  # noqa: ARG002
        """The branch's noise."""
        own = self._of_branch("hidden", rows)
        for x in (gate, up):
            part = x[own]
            disturb(part, self.rng)
            x[own] = part

    def played(self, expert: int, rows: Ids, weights: F32Array, hidden: F32Array, out: F32Array) -> None:
        """The branch's noise; how much each input of down counts."""
        own = self._of_branch("output", rows)
        part = out[own]
        disturb(part, self.rng)
        out[own] = part
        judged = rows < self.n_calibration
        self._into_down[expert].add(hidden[judged], (np.square(weights) * self.weights[rows])[judged])

    def expert_done(self, expert: int, gate: Leaf, up: Leaf, down: Leaf) -> None:  # noqa: ARG002
        """Its importance, then its errors, while its pages are warm."""
        at = f"{self.at}experts.{expert}"
        sample, own = self._sample(expert)
        if self.counts[expert] >= STARVED:
            inputs = Mean(np.zeros(self._x.shape[1]))
            inputs.add(self._x[own], self._loudness(expert, own))
            inputs.n_tokens = int(self.counts[expert])
            into_both = inputs.drawn_to(normalized(self._into_experts.total))
            self.importance |= {f"{at}.gate": into_both, f"{at}.up": into_both}
            flat = np.ones_like(self._into_down[expert].total)
            self.importance[f"{at}.down"] = self._into_down[expert].drawn_to(flat)
        found = expert_errors(self.walk.source, self.ops, at, (gate, up), sample, self.importance)
        share = self._share(expert)
        for part, errors in found.items():
            self.errors[f"{at}.{part}"] = {name: share * error for name, error in errors.items()}

    def _sample(self, expert: int) -> tuple[ExpertSample, NDArray[np.int64]]:
        """Tokens to measure an expert's errors on, filled up with others of the layer; and all of its own."""
        config = self.walk.source.config
        own = np.flatnonzero((self._routing.experts[: self.n_calibration] == expert).any(axis=1))
        weight = self._loudness(expert, own)
        rows = _evenly(own, SAMPLED_TOKENS)
        weight = weight[np.searchsorted(own, rows)]
        if missing := max(
            min(FAITH, self.n_calibration) - len(own), 0
        ):  # what they would ask of it, were they sent here
            others = _evenly(np.setdiff1d(np.arange(self.n_calibration), own), missing)
            rows = np.concatenate([rows, others])
            weight = np.concatenate([weight, self.weights[others] / config.n_experts_per_token**2])
        return ExpertSample(np.ascontiguousarray(self._x[rows]), weight.astype(np.float32)), own

    def _loudness(self, expert: int, rows: NDArray[np.int64]) -> F32Array:
        """What tokens that chose the expert weigh: the router's weight squared, over the stream's square."""
        chosen = self._routing.experts[rows] == expert
        weight = np.where(chosen, self._routing.weights[rows], 0).sum(axis=1)
        return np.asarray(np.square(weight) * self.weights[rows], dtype=np.float32)

    def _share(self, expert: int) -> float:
        """The share of tokens that meet the expert, as if FAITH more had been spread evenly."""
        config = self.walk.source.config
        expected = FAITH * config.n_experts_per_token / config.n_experts
        return float((self.counts[expert] + expected) / (self.n_calibration + FAITH))

    def _calibration(self, rows: slice) -> slice:
        return slice(min(rows.start, self.n_calibration), min(rows.stop, self.n_calibration))

    def _of_branch(self, kind: str, rows: Ids) -> NDArray[np.bool_]:
        branch = self.branches.get(kind, slice(0, 0))
        return (rows >= branch.start) & (rows < branch.stop)


def _evenly(values: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """n of the values, evenly spaced; all where there are no more."""
    return values[np.linspace(0, len(values) - 1, n).astype(int)] if len(values) > n else values
