"""Random-weight packs of any geometry, at disk speed: for measuring speed and memory without a download.

Two pools of random numbers are drawn and quantized once, one for the embedding and one for everything else, and
every matrix is a run through its pool from a starting place of its own. A pool's length is a prime, so a row never
meets the same numbers in the same columns as another row of its matrix, and experts differ. The scales keep
activations of order 1, tokens apart and experts evenly used in deep models: routing and expert streaming see
realistic work. What such a model says is noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint.pack import TokenizerFile, write_pack
from octuor.config import GEOMETRIES, ModelConfig
from octuor.errors import ConfigError, TokenizerError
from octuor.quant import Format
from octuor.quant.base import Array, ceil_div
from octuor.tokenizer.registry import open_tokenizer, tokenizer_kind
from octuor.tools.convert import Progress, Quantize, choose_formats, native_quantizer
from octuor.weights import weight_shapes

# Units (tiles, or single weights) in a pool: primes. A matrix with more rows of tiles than its pool has tiles would
# repeat rows; 521 are enough for a vocabulary of 32,768 and take 5 MB of q4.
TILES = (61, 251, 521, 2039)
WEIGHTS = 4_194_301  # 17 MB of f32
N_STARTS = 4096  # more than the matrices of any model here; a pool with fewer places uses each in turn
# Weight of attention_norm, and so what attention adds to the residual stream. Attention averages over tokens: at
# full strength, what tokens have in common grows faster than what tells them apart, until all route alike.
ATTENTION_GAIN = 0.25


@dataclass(frozen=True)
class SynthReport:
    """What was written: the file, its model, its bytes."""

    path: Path
    config: ModelConfig
    n_bytes: int
    seconds: float


def synth(
    out: Path,
    geometry: str | ModelConfig,
    format_name: str,
    *,
    n_layers: int | None = None,
    seed: int = 0,
    overrides: Mapping[str, str] | None = None,
    tokenizer: Path | None = None,
    quantize: Quantize | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> SynthReport:
    """Write a pack of random weights.

    geometry   a name in config.GEOMETRIES, or a config
    n_layers   fewer (or more) layers than the geometry has
    overrides  other formats by part, as in convert
    tokenizer  a tokenizer's file for the pack to carry; None: a pack that takes and gives token ids only
    progress   called after each piece with the weights' bytes done and in all

    The same arguments make the same file. Raises ConfigError on an unknown geometry, FormatError on an unknown
    format, TokenizerError on a tokenizer that cannot be read or has too many words, CheckpointError if the file exists
    or its disk has no room.
    """
    began = time.perf_counter()
    config = find_geometry(geometry, n_layers)
    words = None if tokenizer is None else _read_tokenizer(tokenizer, config)
    formats = choose_formats(config, format_name, overrides or {})
    shapes = dict(weight_shapes(config))
    total, done = sum(formats[name].n_bytes(shape) for name, shape in shapes.items()), 0
    source = RandomWeights(config, seed, quantize or native_quantizer())

    def pieces(name: str) -> Iterator[Array]:
        nonlocal done
        for piece in source.pieces(name, shapes[name], formats[name]):
            yield piece
            done += piece.nbytes
            if progress is not None:
                progress(done, total)

    n_bytes = write_pack(out, config, formats, pieces, words, overwrite=overwrite)
    return SynthReport(out, config, n_bytes, time.perf_counter() - began)


def find_geometry(geometry: str | ModelConfig, n_layers: int | None = None) -> ModelConfig:
    """The config of a name in config.GEOMETRIES, with as many layers as asked for; ConfigError if there is none."""
    if isinstance(geometry, str):
        if geometry not in GEOMETRIES:
            raise ConfigError(f"geometry: expected one of {', '.join(GEOMETRIES)}; found {geometry!r}")
        geometry = GEOMETRIES[geometry]
    return geometry if n_layers is None else replace(geometry, n_layers=n_layers)


def _read_tokenizer(path: Path, config: ModelConfig) -> TokenizerFile:
    if not path.is_file():
        raise TokenizerError(f"{path}: expected a tokenizer's file, found none; name a tokenizer.model")
    n_words = open_tokenizer(path).n_words
    if n_words > config.vocab_size:
        raise TokenizerError(f"{path}: expected at most the model's {config.vocab_size} words, found {n_words}")
    return TokenizerFile(tokenizer_kind(path), path.read_bytes())


@dataclass(frozen=True)
class _Pool:
    """units [N] plain or [N, tile_bytes] tiled; starts: where the next matrices begin in it."""

    units: Array
    starts: Iterator[int]


class RandomWeights:
    """Draws the weights of one model, matrix after matrix; holds its pools."""

    def __init__(self, config: ModelConfig, seed: int, quantize: Quantize) -> None:
        self._config = config
        self._rng = np.random.default_rng(seed)
        self._make_tiles = quantize
        self._pools: dict[tuple[str, float], _Pool] = {}

    def pieces(self, name: str, shape: tuple[int, ...], row: Format) -> Iterable[Array]:
        """The storage of one weight from first to last byte."""
        part = name.rpartition(".")[2]
        if len(shape) == 1:
            gain = ATTENTION_GAIN if part == "attention_norm" else 1.0
            return [row.quantize(np.full(shape, gain, dtype=np.float32))]
        # unit rows times 1 / sqrt(D) give outputs of order 1; down, with F inputs of about 0.36, 0.7
        scale = 1.0 if part == "embed" else self._config.dim**-0.5
        if part == "router":
            return [row.quantize(self._normal(shape, scale))]
        if shape[0] % row.tile_rows or shape[1] % row.tile_inputs:
            return self._ragged(shape, row, scale)
        return self._run(shape, row, scale)

    def _run(self, shape: tuple[int, ...], row: Format, scale: float) -> Iterator[Array]:
        key = (row.name, scale)
        if key not in self._pools:
            self._pools[key] = self._draw_pool(row, scale)
        pool = self._pools[key]
        left, at = int(np.prod(row.storage_shape(shape)[:2])), next(pool.starts)
        while left:
            piece = pool.units[at : at + left]
            yield piece
            left, at = left - len(piece), 0

    def _ragged(self, shape: tuple[int, ...], row: Format, scale: float) -> Iterator[Array]:
        """A matrix whose edge tiles need their padding of zeros; only toy geometries have such."""
        for start in range(0, shape[0], row.tile_rows):
            n_rows = min(row.tile_rows, shape[0] - start)
            yield self._quantize(self._normal((n_rows, shape[1]), scale), row)

    def _draw_pool(self, row: Format, scale: float) -> _Pool:
        n = self._n_tiles(row) if row.is_tiled else WEIGHTS
        units = self._quantize(self._normal((n * row.tile_rows, row.tile_inputs), scale), row)[:, 0]
        return _Pool(units, cycle(self._rng.choice(n, size=min(n, N_STARTS), replace=False).tolist()))

    def _n_tiles(self, row: Format) -> int:
        needed = ceil_div(max(self._config.vocab_size, self._config.hidden_dim), row.tile_rows)
        return next((n for n in TILES if n > needed), TILES[-1])

    def _quantize(self, x: NDArray[np.float32], row: Format) -> Array:
        return self._make_tiles(x, row) if row.is_tiled else row.quantize(x)

    def _normal(self, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
        return self._rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
