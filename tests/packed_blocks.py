"""Matrices of random codes as bitsandbytes, HQQ and EXL2 lay them out, put together from their descriptions.

Independent of octuor.quant: numbers are computed one step at a time in the dtype that the format computes in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exl2_writer import quantize_exl2
from packed import Stored

NF4_BLOCK = 64


def nf4(shape: tuple[int, int]) -> Stored:
    """Blocks of 64 in flat order with plain float32 absmax, of float16 weights."""
    rng = np.random.default_rng(shape)
    codes = rng.integers(0, 16, shape[0] * shape[1])
    quant_map = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    absmax = rng.uniform(0.05, 0.2, -(-codes.size // NF4_BLOCK)).astype(np.float32)
    state = {"quant_type": "nf4", "blocksize": NF4_BLOCK, "dtype": "float16", "shape": shape}
    tensors: dict[str, NDArray[Any]] = {
        "weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None],
        "weight.absmax": absmax,
        "weight.quant_map": quant_map,
        "weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    values = quant_map[codes] * np.repeat(absmax, NF4_BLOCK)[: codes.size]
    return Stored(tensors, values.astype(np.float16).astype(np.float32).reshape(shape))


def int8(shape: tuple[int, int]) -> Stored:
    """LLM.int8's rows."""
    rng = np.random.default_rng(shape)
    codes, scales = rng.integers(-127, 128, shape).astype(np.int8), rng.uniform(0.05, 0.2, shape[0]).astype(np.float32)
    values = codes.astype(np.float32) * scales[:, None] * np.float32(1 / 127)
    return Stored({"weight": codes, "SCB": scales, "weight_format": np.array(0, np.uint8)}, values)


def hqq(shape: tuple[int, int]) -> Stored:
    """4 bits in groups of 8 inputs, the first half of all groups in the high nibbles, in float16."""
    rng = np.random.default_rng(shape)
    codes = rng.integers(0, 16, (shape[0] * shape[1] // 8, 8)).astype(np.uint8)
    zero, scale = rng.uniform(0, 15, (len(codes), 1)), rng.uniform(0.005, 0.02, (len(codes), 1))
    high, low = np.split(codes, 2)
    tensors: dict[str, NDArray[Any]] = {
        "W_q": high << 4 | low,
        "zero": zero.astype(np.float16),
        "scale": scale.astype(np.float16),
        "shape": np.array(shape),
        "packing": np.frombuffer(b"4bit_u8", np.uint8),
        "compute_dtype": np.frombuffer(b"torch.float16", np.uint8),
        "nbits": np.array(4, np.int32),
        "group_size": np.array(8, np.int32),
        "axis": np.array(1, np.int32),
    }
    values = (codes.astype(np.float16) - tensors["zero"]) * tensors["scale"]
    return Stored(tensors, values.astype(np.float32).reshape(shape))


def exl2(shape: tuple[int, int]) -> Stored:
    """4 bits for all inputs but the last third, which has 2 where it fills whole words."""
    rng = np.random.default_rng(shape)
    x = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
    groups = [(4, 32), (2, shape[1] - 32)] if shape[1] > 32 else [(4, shape[1])]
    matrix = quantize_exl2(x, groups, rng)
    return Stored(matrix.tensors, matrix.numbers)


FOLDERS: dict[str, tuple[dict[str, Any], Callable[[tuple[int, int]], Stored]]] = {
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, int8),
    "hqq": ({"quant_method": "hqq", "quant_config": {}, "skip_modules": ["lm_head"]}, hqq),
    "exl2": ({"quant_method": "exl2", "version": "0.3.2", "bits": 4.0}, exl2),
}
