"""bitsandbytes in Hugging Face folders: nf4 and fp4 with their quant state beside them, int8 with row scales.

    M.weight                               uint8 [out * in / 2, 1], or those bytes as bf16, f16 or f32 (quant_storage)
    M.weight.quant_state.bitsandbytes__T   uint8, JSON: quant_type, blocksize, dtype, shape, nested_*; T is nf4 or fp4
    M.weight.{absmax,quant_map,nested_absmax,nested_quant_map}

    M.weight int8 [out, in], M.SCB float32 [out], M.weight_format uint8: 0, rows as they are

A module whose weight is a plain matrix is not quantized, whatever config.json's llm_int8_skip_modules say: lm_head
always, and in files of transformers 5 the router and fused experts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from octuor.checkpoint.schemes.base import Finder, Scheme, refuse_bias
from octuor.checkpoint.tensors import TensorStore
from octuor.errors import CheckpointError
from octuor.quant.base import Array, ceil_div
from octuor.quant.bitsandbytes import QUANT_TYPES, BitsAndBytes4, BitsAndBytes8
from octuor.weights import Weight

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
STORAGES = ("U8", "I8", "BF16", "F16", "F32")
MAX_STATE_BYTES = 4096  # a genuine one has under 200


def open_bitsandbytes(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:  # noqa: ARG001
    """A finder that goes by the tensors alone: each module says itself how it is quantized."""

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if len(shape) != 2:
            return None
        refuse_bias(tensors, module)
        weight = f"{module}.weight"
        kinds = [kind for kind in QUANT_TYPES if f"{weight}.quant_state.bitsandbytes__{kind}" in tensors]
        if kinds:
            return _four_bits(tensors, weight, kinds[0], shape, name)
        if f"{weight}.absmax" in tensors:
            raise CheckpointError(
                f"{weight}: expected its quant_state.bitsandbytes__nf4 or __fp4, found none in {tensors.label}; "
                "download it again"
            )
        if f"{module}.SCB" in tensors or (weight in tensors and tensors.tensor(weight).dtype == "I8"):
            return _eight_bits(tensors, module, shape, name)
        return None

    return find


@dataclass(frozen=True)
class _State:
    """What a quant state says; nested_block_size is None where absmax is not quantized."""

    block_size: int
    dtype: str
    nested_block_size: int | None
    nested_offset: float


def _four_bits(tensors: TensorStore, weight: str, kind: str, shape: tuple[int, ...], name: str) -> Weight:
    state = _read_state(tensors, f"{weight}.quant_state.bitsandbytes__{kind}", kind, shape)
    blocks = ceil_div(shape[0] * shape[1], state.block_size)
    is_nested = state.nested_block_size is not None
    parts = {
        "quant_map": tensors.expect(f"{weight}.quant_map", ["F32"], [16]),
        "absmax": tensors.expect(f"{weight}.absmax", ["U8" if is_nested else "F32"], [blocks]),
    }
    if state.nested_block_size is not None:
        nested_blocks = ceil_div(blocks, state.nested_block_size)
        parts["nested_absmax"] = tensors.expect(f"{weight}.nested_absmax", ["F32"], [nested_blocks])
        parts["nested_quant_map"] = tensors.expect(f"{weight}.nested_quant_map", ["F32"], [256])
        parts["nested_offset"] = np.array([state.nested_offset], dtype=np.float32)
    storage = BitsAndBytes4(kind, state.block_size, state.dtype, state.nested_block_size)
    return Weight(_packed(tensors, weight, shape), shape, storage, name, parts)


def _packed(tensors: TensorStore, weight: str, shape: tuple[int, ...]) -> Array:
    """The bytes of a 4-bit weight [out, in / 2], whatever type they are stored as."""
    entry = tensors.tensor(weight)
    n_bytes = shape[0] * shape[1] // 2
    if entry.dtype not in STORAGES or entry.n_bytes != n_bytes or shape[1] % 2:
        raise CheckpointError(
            f"{weight}: expected {n_bytes} bytes as {' or '.join(STORAGES)} for {list(shape)}, file has {entry.dtype} "
            f"{list(entry.shape)} ({tensors.path(weight).name}); does config.json belong to these files?"
        )
    return tensors.get(weight).reshape(-1).view(np.uint8).reshape(shape[0], shape[1] // 2)


def _read_state(tensors: TensorStore, tensor: str, kind: str, shape: tuple[int, ...]) -> _State:
    data = tensors.expect(tensor, ["U8"], [None])
    try:
        fields = json.loads(data[:MAX_STATE_BYTES].tobytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{tensor}: expected JSON of at most {MAX_STATE_BYTES} bytes, found {error}; download it again"
        ) from error

    def wrong(wanted: str, field: str) -> CheckpointError:
        found = fields.get(field) if isinstance(fields, dict) else fields
        return CheckpointError(
            f"{tensor}: expected {wanted}, found {str(found)[:60]!r} ({tensors.path(tensor).name}); "
            "does config.json belong to these files?"
        )

    if not isinstance(fields, dict) or fields.get("quant_type") != kind:
        raise wrong(f"a JSON object with quant_type {kind!r}", "quant_type")
    if fields.get("shape") != list(shape):
        raise wrong(f"shape {list(shape)}", "shape")
    if not _is_integer(fields.get("blocksize")) or fields["blocksize"] not in BLOCK_SIZES:
        raise wrong(f"a blocksize of 32 to {BLOCK_SIZES[-1]}", "blocksize")
    if fields.get("dtype") not in list(DTYPES):
        raise wrong(f"a dtype among {', '.join(DTYPES)}", "dtype")
    dtype = DTYPES[fields["dtype"]]
    if "nested_blocksize" not in fields:
        return _State(fields["blocksize"], dtype, None, 0.0)
    if not _is_integer(fields["nested_blocksize"]) or not 1 <= fields["nested_blocksize"] <= BLOCK_SIZES[-1]:
        raise wrong(f"a nested_blocksize of 1 to {BLOCK_SIZES[-1]}", "nested_blocksize")
    if fields.get("nested_dtype") != "float32":
        raise wrong("nested_dtype float32", "nested_dtype")
    offset = fields.get("nested_offset")
    if not isinstance(offset, int | float) or not abs(offset) <= float(np.finfo(np.float32).max):
        raise wrong("a finite nested_offset", "nested_offset")
    return _State(fields["blocksize"], dtype, fields["nested_blocksize"], float(offset))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _eight_bits(tensors: TensorStore, module: str, shape: tuple[int, ...], name: str) -> Weight:
    data = tensors.expect(f"{module}.weight", ["I8"], shape)
    scales = tensors.expect(f"{module}.SCB", ["F32"], shape[:1])
    layout = f"{module}.weight_format"
    if layout in tensors and (found := tensors.expect(layout, ["U8"], []).item()) != 0:
        raise CheckpointError(
            f"{layout}: expected 0 (rows), found {found}, a layout of one kind of GPU; save it with a newer version"
        )
    return Weight(data, shape, BitsAndBytes8(), name, {"SCB": scales})


SCHEME = Scheme(("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"), open_bitsandbytes)
