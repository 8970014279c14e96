"""Numbers that are stored one by one. The reader uses them where rows lie in another order, else formats of ours."""

from __future__ import annotations

import numpy as np

from octuor.quant.base import Array
from octuor.quant.gguf.base import Blocks, F32Array
from octuor.quant.plain import BF16, F16, F32, from_bf16


def _f32(b: Array, out: F32Array) -> None:
    out[:] = b[:, None]


def _bf16(b: Array, out: F32Array) -> None:
    out[:] = from_bf16(b)[:, None]


PLAIN = (
    Blocks("gguf-f32", 0, np.dtype("<f4"), 1, _f32, F32),
    Blocks("gguf-f16", 1, np.dtype("<f2"), 1, _f32, F16),
    Blocks("gguf-bf16", 30, np.dtype("<u2"), 1, _bf16, BF16),
)
