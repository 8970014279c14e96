"""Random weights as blocks of ggml's number formats, drawn directly: valid bytes, zero mean, a given size.

A block's codes and scales are random bytes; only its float fields are set. Blocks with a mean would be fatal: hidden
states collapse, all tokens choose the same two experts, and an engine looks faster than it is. So d has a random sign
where codes are not symmetric, and where a format subtracts a minimum, that minimum is the mean of the codes.

This module needs NumPy only; layouts are those of ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
SPREAD = 0.2  # d varies by so much around its value


@dataclass(frozen=True)
class BlockType:
    """One of ggml's formats.

    type_id    its number in a GGUF
    weights    weights of a block
    n_bytes    bytes of a block
    d_at       offset of the block's fp16 scale
    rms        root mean square of a weight with d = 1 and random bytes elsewhere
    min_at     offset of the fp16 scale of the minima; None: codes are signed
    min_over_d what it is in units of d: the mean of the codes
    pair_minima  makes every sub-block's minimum equal to its scale, in place
    """

    type_id: int
    weights: int
    n_bytes: int
    d_at: int
    rms: float
    min_at: int | None = None
    min_over_d: float = 0.0
    pair_minima: Callable[[Bytes], None] | None = None

    def size(self, n_weights: int) -> int:
        """Bytes of so many weights, a multiple of a block's."""
        return n_weights // self.weights * self.n_bytes


def _pair_six_bits(blocks: Bytes) -> None:
    """Q4_K, Q5_K: bytes 4..16 hold eight 6-bit scales and eight minima, in the packing of get_scale_min_k4."""
    blocks[:, 8:12] = blocks[:, 4:8]
    blocks[:, 12:16] = (blocks[:, 12:16] & 15) * 17


def _pair_four_bits(blocks: Bytes) -> None:
    """Q2_K: bytes 0..16 hold a scale in the low and a minimum in the high nibble."""
    blocks[:, :16] = (blocks[:, :16] & 15) * 17


def _rms(scales: Any, codes: Any) -> float:
    return float(np.sqrt(np.mean(np.square(scales, dtype=float)) * np.mean(np.square(codes, dtype=float))))


_IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]

BLOCKS: dict[str, BlockType] = {
    "Q4_0": BlockType(2, 32, 18, 0, _rms(1, np.arange(-8, 8))),
    "Q8_0": BlockType(8, 32, 34, 0, _rms(1, np.arange(-128, 128))),
    "Q2_K": BlockType(10, 256, 84, 80, _rms(np.arange(16), np.arange(4) - 1.5), 82, 1.5, _pair_four_bits),
    "Q3_K": BlockType(11, 256, 110, 108, _rms(np.arange(-32, 32), np.arange(-4, 4))),
    "Q4_K": BlockType(12, 256, 144, 0, _rms(np.arange(64), np.arange(16) - 7.5), 2, 7.5, _pair_six_bits),
    "Q5_K": BlockType(13, 256, 176, 0, _rms(np.arange(64), np.arange(32) - 15.5), 2, 15.5, _pair_six_bits),
    "Q6_K": BlockType(14, 256, 210, 208, _rms(np.arange(-128, 128), np.arange(-32, 32))),
    "IQ4_NL": BlockType(20, 32, 18, 0, _rms(1, _IQ4)),
    "IQ4_XS": BlockType(23, 256, 136, 0, _rms(np.arange(-32, 32), _IQ4)),
}


def random_blocks(name: str, n_blocks: int, rms: float, rng: np.random.Generator) -> Bytes:
    """[n_blocks, n_bytes] blocks whose weights have zero mean and about this root mean square."""
    row = BLOCKS[name]
    blocks = rng.integers(0, 256, (n_blocks, row.n_bytes), dtype=np.uint8)
    d = rng.uniform(1 - SPREAD, 1 + SPREAD, n_blocks) * (rms / row.rms)
    if row.min_at is None:
        d *= rng.choice([-1.0, 1.0], n_blocks)
    else:
        _set_half(blocks, row.min_at, d * row.min_over_d)
        if row.pair_minima is not None:
            row.pair_minima(blocks)
    _set_half(blocks, row.d_at, d)
    return blocks


def _set_half(blocks: Bytes, at: int, values: NDArray[np.float64]) -> None:
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
