"""HQQ in Hugging Face folders: codes, zeros and scales beside their settings, each of them a tensor.

    M.W_q                                  codes as quant/hqq.py has them, or their bytes as floats (view_as_float)
    M.scale, M.zero                        f32, f16 or bf16
    M.shape                                int64 [2]
    M.nbits, M.group_size, M.axis          int32 (nbits float32 where it is 1.58)
    M.packing, M.compute_dtype             text as uint8: 4bit_u8, torch.float16
    M.view_as_float, M.quant_scale, M.quant_zero    uint8, 0 or 1

A module says itself whether and how it is quantized, so config.json's quant_config and skip_modules decide nothing.

hqq's own folders hold all this in one file of PyTorch's, qmodel.pt, a dict for each module, and the settings as plain
values. Until 0.1.8 they lie one dict deeper, in M.meta, and zeros and scales may be quantized themselves: M.meta.zero_q
and M.meta.meta_zero with settings of their own, or zero_scale, both stacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from octuor.checkpoint.schemes.base import Finder, Scheme, refuse_bias
from octuor.checkpoint.tensors import TensorStore
from octuor.checkpoint.torch_file import TorchFile
from octuor.errors import CheckpointError, ShapeError
from octuor.quant.base import Array
from octuor.quant.hqq import PACKED_BITS, Hqq
from octuor.weights import Weight

PACKINGS = {8: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}  # by bits that a code takes
COMPUTE_DTYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}
FIELDS = ("nbits", "group_size", "shape", "axis", "packing", "compute_dtype", "quant_zero", "quant_scale")
MAX_TEXT = 64
MAX_GROUP = 1 << 31


def open_hqq(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:  # noqa: ARG001
    """A finder that goes by the tensors and what is beside them."""
    pickled = {name: x for file in tensors.files if isinstance(file, TorchFile) for name, x in file.values.items()}

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if f"{module}.W_q" not in tensors or len(shape) != 2:
            return None
        refuse_bias(tensors, module)
        at = f"{module}.meta." if f"{module}.meta.nbits" in pickled else f"{module}."
        found = _pickled_settings(pickled, at) if f"{at}nbits" in pickled else _settings(tensors, module)
        zero, scale = (
            _nested(tensors, pickled, at, part) if found.get(f"quant_{part}") is True else None
            for part in ("zero", "scale")
        )
        where = f"{module} ({tensors.path(f'{module}.W_q').name})"
        storage = replace(storage_of(found, where), zero=zero, scale=scale)
        parts = _part(tensors, at, "zero", zero) | _part(tensors, at, "scale", scale)
        codes = as_codes(tensors.get(f"{module}.W_q"), storage)
        try:
            return Weight(codes, shape, storage, name, parts)
        except ShapeError as error:
            raise CheckpointError(f"{error} (tensors of {module}); does config.json belong to these files?") from error

    return find


def storage_of(settings: Mapping[str, Any], where: str) -> Hqq:
    """The storage that a matrix's own settings describe, called as hqq calls them; CheckpointError on others.

    nbits, group_size (None: none), axis, packing, shape; compute_dtype, where it is missing float16
    """
    bits = _rounded(settings.get("nbits"))
    if bits not in PACKED_BITS:
        raise _wrong(where, f"nbits among {', '.join(f'{bits:g}' for bits in PACKED_BITS)}", settings.get("nbits"))
    if settings.get("packing") != PACKINGS[PACKED_BITS[bits]]:
        raise _wrong(where, f"packing {PACKINGS[PACKED_BITS[bits]]}", settings.get("packing"))
    shape, axis, group_size = settings.get("shape"), settings.get("axis"), settings.get("group_size")
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(_is_size(length) for length in shape):
        raise _wrong(where, "a shape of two lengths", shape)
    if type(axis) is not int or axis not in (0, 1):
        raise _wrong(where, "axis 0 or 1", axis)
    if group_size is not None and not _is_size(group_size):
        raise _wrong(where, "a group_size of at least 1", group_size)
    dtype = settings.get("compute_dtype", "torch.float16")
    if dtype not in list(COMPUTE_DTYPES):
        raise _wrong(where, f"compute_dtype among {', '.join(COMPUTE_DTYPES)}", dtype)
    return Hqq(bits, shape, axis, group_size, COMPUTE_DTYPES[dtype])


def as_codes(stored: Array, storage: Hqq) -> Array:
    """W_q as the storage has it, from the same bytes under any dtype; left as it is where they do not fit."""
    dtype = np.dtype(np.int32 if storage.n_packed == 10 else np.uint8)
    if stored.dtype == dtype or stored.ndim != 2 or not stored.flags.c_contiguous:
        return stored
    return stored.view(dtype) if stored.shape[1] * stored.itemsize % dtype.itemsize == 0 else stored


def _settings(tensors: TensorStore, module: str) -> dict[str, Any]:
    """A module's settings as Python values. Raises CheckpointError where one that we need is no number, or no text."""
    found: dict[str, Any] = {
        "nbits": tensors.expect(f"{module}.nbits", ["I32", "F32"], []).item(),
        "axis": tensors.expect(f"{module}.axis", ["I32"], []).item(),
        "shape": tuple(tensors.expect(f"{module}.shape", ["I64"], [2]).tolist()),
        "packing": _text(tensors, f"{module}.packing"),
        "group_size": None,
    }
    if f"{module}.group_size" in tensors:
        found["group_size"] = tensors.expect(f"{module}.group_size", ["I32"], []).item()
    if f"{module}.compute_dtype" in tensors:
        found["compute_dtype"] = _text(tensors, f"{module}.compute_dtype")
    for part in ("quant_scale", "quant_zero"):
        if f"{module}.{part}" in tensors and tensors.expect(f"{module}.{part}", ["U8"], []).item() != 0:
            raise _wrong(module, f"{part} 0, as hqq's safetensors have it", 1)
    return found


def _pickled_settings(pickled: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Settings as plain values, of those whose names begin so."""
    return {field: pickled[at + field] for field in FIELDS if at + field in pickled}


def _nested(tensors: TensorStore, pickled: Mapping[str, Any], at: str, part: str) -> Hqq:
    """How zeros or scales are quantized."""
    inner = f"{at}meta_{part}."
    return storage_of(_pickled_settings(pickled, inner), f"{inner[:-1]} ({tensors.label})")


def _part(tensors: TensorStore, at: str, part: str, nested: Hqq | None) -> dict[str, Array]:
    """The arrays of zeros or scales, by the names that Hqq has for them."""
    stacked = f"{at}zero_scale"
    name = f"{at}{part}" if nested is None else f"{at}{part}_q"
    if name not in tensors and stacked in tensors and tensors.tensor(stacked).shape[:1] == (2,):
        stored = tensors.get(stacked)[0 if part == "zero" else 1]
    else:
        stored = tensors.get(name)
    if nested is None:
        return {part: stored}
    inner = f"{at}meta_{part}."
    return {
        f"{part}.data": as_codes(stored, nested),
        f"{part}.zero": tensors.get(f"{inner}zero"),
        f"{part}.scale": tensors.get(f"{inner}scale"),
    }


def _text(tensors: TensorStore, name: str) -> str:
    data = tensors.expect(name, ["U8"], [None])
    return data[:MAX_TEXT].tobytes().decode("ascii", "replace")


def _rounded(value: Any) -> float:
    """A number of bits to two decimals, for 1.58 passes through float32; 0 for what is no such number."""
    return round(value, 2) if type(value) in (int, float) and 0 < value < 64 else 0.0


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value < MAX_GROUP


def _wrong(where: str, expected: str, found: Any) -> CheckpointError:
    return CheckpointError(f"{where}: expected {expected}, found {str(found)[:60]!r}; is it a checkpoint of hqq?")


SCHEME = Scheme(("hqq",), open_hqq)
