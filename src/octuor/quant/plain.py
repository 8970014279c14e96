"""Formats that store every weight by itself: f32, f16, bf16.

NumPy has no bfloat16; its numbers travel as uint16 and are converted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octuor.quant.base import Array, Format, Quantizer


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to the nearest bfloat16, ties to even, as uint16; NaN stays NaN, same shape."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(x), quiet_nan, rounded).astype(np.uint16)


def from_bf16(x: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 held in uint16 to float32, exactly."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(x: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """x as a computation in "f32", "f16" or "bf16" leaves it, ties to even: x itself for f32, else a new array.

    Rounding the float32 sum or product of two such numbers gives what the dtype's own arithmetic gives.
    """
    if dtype == "f16":
        with np.errstate(over="ignore"):  # infinity, as there
            return x.astype(np.float16).astype(np.float32)
    return from_bf16(to_bf16(x)) if dtype == "bf16" else x


def _dequantize_bf16(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.ascontiguousarray(from_bf16(data)).reshape(shape)


def _as_f32(data: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.ascontiguousarray(data, dtype=np.float32).reshape(shape)


def _same(x: NDArray[np.float32]) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32)


def _to_f16(x: NDArray[np.float32]) -> Array:
    return x.astype(np.float16)


def _rounds(to: Callable[[NDArray[np.float32]], Array]) -> Quantizer:
    """Rounding number by number: what is important makes no difference."""

    def quantize(
        x: NDArray[np.float32],
        importance: NDArray[np.float32] | None = None,  # noqa: ARG001
        *,
        thorough: bool = False,  # noqa: ARG001
    ) -> Array:
        return to(x)

    return quantize


F32 = Format("f32", np.dtype(np.float32), "F32", 0.0, _rounds(_same), _as_f32)
F16 = Format("f16", np.dtype(np.float16), "F16", 2.0**-11, _rounds(_to_f16), _as_f32)
BF16 = Format("bf16", np.dtype(np.uint16), "BF16", 2.0**-8, _rounds(to_bf16), _dequantize_bf16)
