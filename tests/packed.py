"""Matrices as other quantizers store them, packed bit by bit here on their own, and what their numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the output in each nibble of a word, from the lowest


@dataclass
class Stored:
    """One matrix: tensors by the name that follows its module's, and the float32 [out, in] that they stand for."""

    tensors: dict[str, Array]
    values: NDArray[np.float32]


def pack(codes: Array, bits: int) -> NDArray[np.int32]:
    """Rows of codes as a stream of bits in words: [rows, n] -> [rows, ceil(n * bits / 32)]."""
    stream = (codes.astype(np.int64)[..., None] >> np.arange(bits)) & 1
    stream = stream.reshape(len(codes), -1).astype(np.uint8)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return np.ascontiguousarray(np.packbits(stream, axis=1, bitorder="little")).view(np.int32)


def as_scales(x: Array, dtype: str) -> Array:
    """Float32 that bfloat16 holds, in the form in which files are read: bfloat16 as bits."""
    bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return (bits >> 16).astype(np.uint16) if dtype == "bf16" else bits.view(np.float32).astype(dtype)


def times(codes: Array, scales: Array) -> NDArray[np.float32]:
    """Whole numbers times scales, rounded as the scales are: exact in float64 before."""
    if scales.dtype != np.uint16:
        product = codes.astype(np.float64) * scales.astype(np.float64)
        return product.astype(scales.dtype).astype(np.float32)
    wide = (scales.astype(np.uint32) << 16).view(np.float32)
    exact = (codes.astype(np.float64) * wide).astype(np.float32)  # 17 bits: exact
    bits = exact.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def gptq(
    shape: tuple[int, int], bits: int, group_size: int, *, zero_offset: int = 1, order: bool = False,
    dtype: str = "float16", seed: int = 0,
) -> Stored:  # fmt: skip
    rng = np.random.default_rng([seed, bits, *shape])
    out, inputs = shape
    groups = np.arange(inputs) // group_size
    if order:
        groups = rng.permutation(groups)
    codes = rng.integers(0, 1 << bits, shape)
    zeros = rng.integers(1, 1 << bits, (int(groups.max()) + 1, out))
    scales = as_scales(rng.uniform(0.01, 0.1, zeros.shape), dtype)
    tensors = {
        "qweight": pack(codes, bits).T.copy(),
        "qzeros": pack(zeros - zero_offset, bits),
        "scales": scales,
        "g_idx": groups.astype(np.int32),
    }
    return Stored(tensors, times(codes - zeros.T[:, groups], scales.T[:, groups]))


def awq(shape: tuple[int, int], group_size: int, *, dtype: str = "float16", seed: int = 0) -> Stored:
    rng = np.random.default_rng([seed, *shape])
    out, inputs = shape
    groups = np.arange(inputs) // group_size
    codes = rng.integers(0, 16, shape)
    zeros = rng.integers(0, 16, (int(groups.max()) + 1, out))
    scales = as_scales(rng.uniform(0.01, 0.1, zeros.shape), dtype)

    def packed(x: Array) -> Array:
        return pack(x.reshape(len(x), -1, 8)[:, :, AWQ_ORDER].reshape(x.shape), 4)

    tensors = {"qweight": packed(codes.T), "qzeros": packed(zeros), "scales": scales}
    return Stored(tensors, times(codes - zeros.T[:, groups], scales.T[:, groups]))


def compressed(
    shape: tuple[int, int], bits: int, group_size: int, *, symmetric: bool = True, order: bool = False,
    dtype: str = "bf16", seed: int = 0,
) -> Stored:  # fmt: skip
    rng = np.random.default_rng([seed, bits, *shape])
    out, inputs = shape
    groups = np.arange(inputs) // group_size
    if order:
        groups = rng.permutation(groups)
    codes = rng.integers(0, 1 << bits, shape)
    zeros = np.full((out, int(groups.max()) + 1), 1 << (bits - 1))
    scales = as_scales(rng.uniform(0.01, 0.1, zeros.shape), dtype)
    tensors = {"weight_packed": pack(codes, bits), "weight_scale": scales, "weight_shape": np.array(shape)}
    if not symmetric:
        zeros = rng.integers(0, 1 << bits, zeros.shape)
        tensors["weight_zero_point"] = pack(zeros.T, bits).T.copy()
    if order:
        tensors["weight_g_idx"] = groups.astype(np.int32)
    return Stored(tensors, times(codes - zeros[:, groups], scales[:, groups]))


def e4m3(codes: Array) -> NDArray[np.float32]:
    """Float8 e4m3 by its definition; codes that are numbers."""
    exponent, mantissa = codes.astype(int) >> 3 & 15, codes.astype(int) & 7
    size = np.ldexp(np.where(exponent, 8 + mantissa, mantissa), np.maximum(exponent, 1) - 10)
    return np.where(codes & 0x80, -size, size).astype(np.float32)


def float8(
    shape: tuple[int, int], grid: tuple[int, ...], block: tuple[int, int], *, name: str = "weight_scale", seed: int = 0
) -> Stored:
    """grid: the scale's shape as files have it, block: rows and inputs that share a scale."""
    rng = np.random.default_rng([seed, *shape])
    codes = rng.integers(0, 127, shape, np.uint8) | rng.integers(0, 2, shape, np.uint8) << 7
    scale = rng.uniform(0.001, 0.01, grid).astype(np.float32)
    spread = scale.reshape((1, 1) if scale.size == 1 else (-1, 1) if scale.ndim == 1 else scale.shape)
    spread = spread.repeat(block[0], 0)[: shape[0]].repeat(block[1], 1)[:, : shape[1]]
    return Stored({"weight": codes, name: scale}, times(e4m3(codes), spread))


def float8_blocks(shape: tuple[int, int]) -> Stored:
    """Blocks of 16 x 32, as DeepSeek's files name their scales."""
    return float8(shape, (-(-shape[0] // 16), -(-shape[1] // 32)), (16, 32), name="weight_scale_inv")
