"""What a number format makes of a matrix: its rounding error where it counts, at the outputs of a part of a layer.

S sampled tokens, D dim, F hidden_dim, R sampled rows. An error is a mean over tokens of the squared change of what the
residual stream gains, relative to the stream's own square: the norm before the next part divides by it.

Rounding errors of rows are independent, so a few whole tiles of rows stand for a matrix, and what reaches an expert's
output through gate and up is a sum over their rows:

    gate  sum over rows f of (dW_f x)^2 (silu'(g_f) u_f)^2 |down[:, f]|^2        up  likewise with silu(g_f)^2
    down  sum over rows d of (dW_d h)^2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
from numpy.typing import NDArray

from octuor import model
from octuor.batch import Batch
from octuor.ops.native import NativeOps
from octuor.quant import F32, Format, find_in_packs
from octuor.quant.base import Array
from octuor.tools.convert import row_blocks
from octuor.tools.pack.walk import F32Array, Source, silu
from octuor.weights import Layer, Leaf, Weight

CANDIDATES = tuple(find_in_packs(name) for name in ("q2", "q3", "q4", "q5", "q6", "q8", "gguf-q8_0"))
TILE_ROWS = 64  # of every candidate
SAMPLED_TILES = 4  # rows of tiles that stand for a matrix

Errors = dict[str, float]  # format -> error


def candidates(shape: tuple[int, ...]) -> tuple[Format, ...]:
    """The formats that a matrix of this shape may have."""
    return tuple(row for row in CANDIDATES if row.takes(shape))


@dataclass(frozen=True)
class Sampled:
    """Rows [R, in] of a matrix as float32, evenly spaced tiles of it.

    index  [R] which rows they are
    share  of the matrix's rows
    """

    rows: F32Array
    index: NDArray[np.int64]
    share: float


def lightness(x: F32Array) -> F32Array:
    """1 over the square of each row: what a squared error of a token in this state counts."""
    power = np.square(x).sum(axis=1)
    return np.asarray(1 / np.maximum(power, np.finfo(np.float32).tiny), dtype=np.float32)


def sample_rows(weight: Weight) -> Sampled:
    """Up to SAMPLED_TILES tiles of a matrix."""
    unit = lcm(TILE_ROWS, weight.format.row_multiple)
    n_tiles = -(-weight.shape[0] // unit)
    chosen = np.unique(np.linspace(0, n_tiles - 1, min(SAMPLED_TILES, n_tiles)).astype(int))
    bounds = [(int(tile) * unit, min((int(tile) + 1) * unit, weight.shape[0])) for tile in chosen]
    rows = np.concatenate([weight.rows(start, stop).to_f32() for start, stop in bounds])
    index = np.concatenate([np.arange(start, stop) for start, stop in bounds])
    return Sampled(np.ascontiguousarray(rows, dtype=np.float32), index, len(index) / weight.shape[0])


def rounded(ops: NativeOps, x: Array, row: Format, importance: F32Array | None) -> F32Array:
    """x [R, in] as the format has it, float32."""
    tiles = ops.quantize(x, row, importance)
    everything = np.arange(x.shape[0], dtype=np.int32)
    return ops.embed(everything, ops.put(Weight(tiles, x.shape, row)))


def product(ops: NativeOps, x: F32Array, rows: F32Array) -> F32Array:
    """x [t, in] times rows [R, in] transposed, on the kernels' threads: NumPy has others, and they wait for these."""
    return ops.linear(x, ops.put(Weight(rows, rows.shape, F32)))


@dataclass(frozen=True)
class ExpertSample:
    """Tokens at one expert.

    x       [S, D] its inputs, normed
    weight  [S] square of what the router multiplies by, over the residual stream's square
    """

    x: F32Array
    weight: F32Array


def expert_errors(
    source: Source,
    ops: NativeOps,
    at: str,
    leaves: tuple[Leaf, Leaf],
    sample: ExpertSample,
    importance: Mapping[str, F32Array],
) -> dict[str, Errors]:
    """Of "gate", "up" and "down" of the expert `at`, in every candidate; leaves are gate's and up's."""
    g, u = (ops.linear(sample.x, leaf) for leaf in leaves)
    hidden = silu(g) * u
    sigmoid = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * g))
    slope = sigmoid * (1 + g * (1 - sigmoid))  # silu'(g)
    parts = {part: sample_rows(source.weight(f"{at}.{part}")) for part in ("gate", "up", "down")}
    down = parts["down"]
    reach = np.square(down.rows).sum(axis=0) / np.float32(down.share)  # [F] |down[:, f]|^2
    gains = {"gate": np.square(slope * u) * reach, "up": np.square(silu(g)) * reach}  # [S, F]
    found: dict[str, Errors] = {}
    for part, rows in parts.items():
        inputs = hidden if part == "down" else sample.x
        gain = sample.weight[:, None] if part == "down" else sample.weight[:, None] * gains[part][:, rows.index]
        found[part] = {}
        for row in candidates(rows.rows.shape):
            difference = rounded(ops, rows.rows, row, importance.get(f"{at}.{part}")) - rows.rows
            change = np.square(product(ops, inputs, difference)) * gain
            found[part][row.name] = float(change.sum(dtype=np.float64) / rows.share / len(inputs))
    return found


def attention_errors(
    source: Source,
    ops: NativeOps,
    n: int,
    x: F32Array,
    batch: Batch,
    rows: Sequence[Format],
    importance: Mapping[str, F32Array],
) -> dict[str, Errors]:
    """Of wq, wk, wv and wo of layer n, by running its attention with each of them rounded.

    x  [S, D] hidden states before the layer, of the batch's tokens
    """
    config, at = source.config, f"layers.{n}."
    weights = lightness(x)
    parts = {part: source.leaf(at + part) for part in ("attention_norm", "wq", "wk", "wv", "wo", "moe_norm")}
    layer = Layer(**parts, router=None, experts=())
    normed = ops.rms_norm(x, layer.attention_norm, config.norm_eps)

    def gained(changed: Layer) -> F32Array:
        return ops.linear(model.attention(ops, changed, config, normed, batch, 0), changed.wo)

    exact = gained(layer)
    found: dict[str, Errors] = {}
    for part in ("wq", "wk", "wv", "wo"):
        weight = source.weight(at + part)
        found[at + part] = {}
        for row in (row for row in rows if row.takes(weight.shape)):
            leaf = ops.put(rounded_weight(ops, weight, row, importance.get(at + part)))
            change = np.square(gained(replace(layer, **{part: leaf})) - exact).sum(axis=1, dtype=np.float64)
            found[at + part][row.name] = float((change * weights).mean())
    return found


def rounded_weight(ops: NativeOps, weight: Weight, row: Format, importance: F32Array | None) -> Weight:
    """A whole matrix as the format has it, in float32: with it, only weights are rounded, not activations."""
    out = np.empty(weight.shape, dtype=np.float32)
    for start, block in blocks(weight):
        out[start : start + len(block)] = rounded(ops, block, row, importance)
    return Weight(out, weight.shape, F32, weight.name)


def blocks(weight: Weight) -> Iterator[tuple[int, F32Array]]:
    """A matrix in blocks of whole tiles of rows as float32, each with its first row's number."""
    start = 0
    for block in row_blocks(weight):
        yield start, np.ascontiguousarray(block.to_f32(), dtype=np.float32)
        start += block.shape[0]


def row_error(ops: NativeOps, weight: Weight, row: Format) -> float:
    """Squared error of a matrix's rows relative to their squares: what a token's embedding changes by."""
    sample = sample_rows(weight)
    power = np.square(sample.rows).sum(dtype=np.float64)
    change = np.square(rounded(ops, sample.rows, row, None) - sample.rows).sum(dtype=np.float64)
    return float(change / power) if power > 0 else 0.0
