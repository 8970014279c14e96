"""Random weights in other programs' storages: any codes, scales of sane size, results of order 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from octuor.quant.awq import Awq
from octuor.quant.bitsandbytes import BitsAndBytes4, BitsAndBytes8
from octuor.quant.compressed import Bytes, Packed
from octuor.quant.fp8 import Fp8, grid
from octuor.quant.gguf import TYPES
from octuor.quant.gptq import Gptq
from octuor.quant.hqq import PACKED_BITS, Hqq
from octuor.quant.plain import to_bf16
from octuor.weights import Weight

BLOCKS = {row.name: row for row in TYPES.values()}
SCALE_FIELDS = ("d", "dmin", "m")
Random = np.random.Generator


def blocks(name: str, out: int, inputs: int, seed: int = 0) -> Weight:
    """A ggml type; `inputs` is a multiple of its block."""
    row, rng = BLOCKS[name], np.random.default_rng([seed, out, inputs])
    stored = rng.integers(0, 256, (out, row.row_bytes(inputs)), dtype=np.uint8)
    fields = stored.reshape(-1).view(row.layout)
    for field in SCALE_FIELDS:
        if field in (row.layout.names or ()):
            fields[field] = _scales(rng, fields[field].shape, 1e-3)
    if "e" in (row.layout.names or ()):
        fields["e"] = rng.integers(116, 122, fields["e"].shape)
    return Weight(stored, (out, inputs), row, name)


def mixed_heads(weight: Weight, half_head: int) -> Weight:
    """The same bytes as readers hand over wq: rows i and i + C/2 of a head are neighbours in the file."""
    pairs = weight.data.reshape(-1, half_head, 2, weight.data.shape[-1])
    return Weight(pairs.swapaxes(1, 2), weight.shape, weight.format, weight.name)


def gptq(
    bits: int, out: int, inputs: int, seed: int = 0, *, scales: str = "f16", group: int = 32, act_order: bool = False
) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    n_groups = -(-inputs // group)
    parts = {
        "qzeros": _words(rng, n_groups, -(-out * bits // 32)),
        "scales": _as(scales, _scales(rng, (n_groups, out), 0.1 / 2**bits)),
    }
    if act_order:
        parts["g_idx"] = rng.permutation(np.arange(inputs, dtype=np.int32) // group)
    codes = _words(rng, -(-inputs * bits // 32), out)
    return Weight(codes, (out, inputs), Gptq(bits, group, 1), f"gptq-{bits}", parts)


def awq(out: int, inputs: int, seed: int = 0, *, scales: str = "f16", group: int = 32) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    n_groups = -(-inputs // group)
    parts = {"qzeros": _words(rng, n_groups, out // 8), "scales": _as(scales, _scales(rng, (n_groups, out), 0.01))}
    return Weight(_words(rng, inputs, out // 8), (out, inputs), Awq(group), "awq-4", parts)


def fp8(
    out: int, inputs: int, seed: int = 0, *, scales: str = "f32", block_rows: int = 24, block_inputs: int = 128
) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    storage = Fp8(block_rows, block_inputs)
    codes = rng.integers(0, 256, (out, inputs), dtype=np.uint8)
    codes[codes & 127 == 127] = 0  # no NaN
    parts = {"scale": _as(scales, _scales(rng, grid((out, inputs), block_rows, block_inputs), 1e-3))}
    return Weight(codes, (out, inputs), storage, "f8", parts)


def int8(out: int, inputs: int, seed: int = 0, *, block_rows: int = 1, zeros: bool = True) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    blocks_of_rows = grid((out, inputs), block_rows, 0)
    parts: dict[str, NDArray[np.generic]] = {"scale": _as("bf16", _scales(rng, blocks_of_rows, 1e-3))}
    if zeros:
        parts["zero_point"] = _codes8(rng, *blocks_of_rows)
    return Weight(_codes8(rng, out, inputs), (out, inputs), Bytes(block_rows), "int8", parts)


def packed(
    bits: int,
    out: int,
    inputs: int,
    seed: int = 0,
    *,
    zeros: bool = True,
    act_order: bool = False,
    scales: str = "f16",
    group: int = 64,
) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    n_groups = -(-inputs // group)
    parts: dict[str, NDArray[np.generic]] = {"scale": _as(scales, _scales(rng, (out, n_groups), 0.1 / 2**bits))}
    if zeros:
        parts["zero_point"] = _words(rng, -(-out * bits // 32), n_groups)
    if act_order:
        parts["g_idx"] = rng.permutation(np.arange(inputs, dtype=np.int32) // group)
    codes = _words(rng, out, -(-inputs * bits // 32))
    return Weight(codes, (out, inputs), Packed(bits, group), f"int{bits}-packed", parts)


def bnb_int8(out: int, inputs: int, seed: int = 0) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    return Weight(_codes8(rng, out, inputs), (out, inputs), BitsAndBytes8(), "bnb", {"SCB": _scales(rng, (out,), 0.1)})


def bnb_4(name: str, out: int, inputs: int, seed: int = 0, *, nested: bool = True, dtype: str = "bf16") -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    n_blocks = -(-out * inputs // 64)
    parts: dict[str, NDArray[np.generic]] = {
        "quant_map": np.sort(_scales(rng, (16,), 1)),
        "absmax": _scales(rng, (n_blocks,), 0.1),
    }
    if nested:
        parts |= {
            "absmax": rng.integers(0, 256, n_blocks, dtype=np.uint8),
            "nested_absmax": _scales(rng, (-(-n_blocks // 256),), 0.1),
            "nested_quant_map": np.sort(_scales(rng, (256,), 1)),
            "nested_offset": _scales(rng, (1,), 0.1),
        }
    codes = rng.integers(0, 256, (out, inputs // 2), dtype=np.uint8)
    return Weight(codes, (out, inputs), BitsAndBytes4(name, 64, dtype, 256 if nested else None), name, parts)


def hqq(
    bits: float, out: int, inputs: int, seed: int = 0, *, axis: int = 1, group: int | None = 64, dtype: str = "f16"
) -> Weight:
    rng = np.random.default_rng([seed, out, inputs])
    storage = Hqq(bits, (out, inputs), axis, group, dtype)
    r, c = storage.grid
    of_groups = (r, 1) if axis == 1 else (1, c)
    n = storage.n_packed
    elements = (-(-r // n), c)
    codes = _words(rng, *elements) if n == 10 else rng.integers(0, 256, elements, dtype=np.uint8)
    top = 2 ** PACKED_BITS[bits]
    parts = {
        "zero": _as(dtype, (top * rng.uniform(0, 1, of_groups)).astype(np.float32)),
        "scale": _as(dtype, _scales(rng, of_groups, 0.1 / top)),
    }
    return Weight(codes, (out, inputs), storage, storage.name, parts)


def _codes8(rng: Random, *shape: int) -> NDArray[np.int8]:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def _words(rng: Random, *shape: int) -> NDArray[np.int32]:
    return rng.integers(-(2**31), 2**31, shape, dtype=np.int64).astype(np.int32)


def _scales(rng: Random, shape: tuple[int, ...], size: float) -> NDArray[np.float32]:
    return (size * rng.uniform(-1, 1, shape)).astype(np.float32)


def _as(name: str, x: NDArray[np.float32]) -> NDArray[np.generic]:
    if name == "bf16":
        return to_bf16(x)
    return x.astype({"f16": np.float16, "f32": np.float32}[name])


# Each makes a weight of some outputs and inputs, multiples of 8 and of 256, from a seed.
SAMPLES: dict[str, Callable[[int, int, int], Weight]] = {
    **{name: partial(blocks, name) for name in BLOCKS if BLOCKS[name].plain is None},
    **{f"gptq-{bits}": partial(gptq, bits) for bits in (2, 3, 4, 8)},
    "gptq-4-act": partial(gptq, 4, act_order=True),
    "awq-4": awq,
    "f8": fp8,
    "int8": int8,
    **{f"int{bits}-packed": partial(packed, bits) for bits in (2, 3, 4, 8)},
    "int4-packed-act": partial(packed, 4, act_order=True),
    "bnb-int8": bnb_int8,
    "nf4": partial(bnb_4, "nf4"),
    "fp4": partial(bnb_4, "fp4", nested=False, dtype="f16"),
    **{f"hqq-{bits}": partial(hqq, bits) for bits in (1, 2, 3, 4, 8)},
    "hqq-4-columns": partial(hqq, 4, axis=0, dtype="bf16"),
}
