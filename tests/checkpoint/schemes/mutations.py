"""Damage to quantized folders: settings of other types; tensors of other shapes, dtypes and bytes, missing, renamed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoint.schemes.quantized_folders import Quantized, quantize
from octuor.checkpoint.huggingface import places_of
from octuor.config import ModelConfig
from octuor.weights import weight_shapes
from packed import awq, compressed, float8_blocks, gptq
from packed_blocks import FOLDERS

TINY = ModelConfig(
    dim=16, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8, hidden_dim=24, vocab_size=20, n_experts=2, max_seq_len=64
)  # fmt: skip
SETTINGS = {
    "model_type": "mixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 20,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 2, "sliding_window": None,
}  # fmt: skip
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3,
    5,
    7,
    2**31,
    2**70,
    1.5,
    float("inf"),
    "",
    "4",
    "gptq_v2",
    [],
    [4],
    {},
    {"a": 1},
)
PACKED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8}
FLOATS = {"num_bits": 8, "type": "float", "strategy": "channel"}


SCHEMES: dict[str, tuple[dict[str, Any], Any]] = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 8, "checkpoint_format": "gptq"},
        lambda shape: gptq(shape, 4, 8, order=True),
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm"}, lambda shape: awq(shape, 8)),
    "compressed": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": PACKED}, "group_1": {"weights": FLOATS}},
        },
        lambda shape: compressed(shape, 4, 8, symmetric=False, order=True),
    ),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [16, 32]}, float8_blocks),
    **FOLDERS,
}


def sound(scheme: str) -> Quantized:
    """The folder before damage."""
    settings, make = SCHEMES[scheme]
    byte = "U8" if scheme in FOLDERS else "F8_E4M3"
    return quantize(_plain(), SETTINGS, deepcopy(settings), make, byte)


def damage(folder: Quantized, rng: np.random.Generator) -> None:
    """One to three changes of the folder."""
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.3:
            _change_setting(folder.scheme, rng)
            continue
        name = str(rng.choice(sorted(folder.tensors)))
        kind = rng.integers(5)
        if kind == 0:
            del folder.tensors[name]
        elif kind == 1:
            folder.tensors[str(rng.choice(sorted(folder.tensors)))] = folder.tensors[name]
        else:
            folder.tensors[name] = _other(folder.tensors[name], rng, int(kind))


def _other(x: NDArray[Any], rng: np.random.Generator, kind: int) -> NDArray[Any]:
    if kind == 2:  # any bytes: groups that are not there, NaN scales
        data = np.frombuffer(rng.bytes(x.nbytes), x.dtype)
        return data.reshape(x.shape)
    if kind == 3:
        with np.errstate(over="ignore", invalid="ignore"):
            return x.astype(rng.choice(["int32", "int64", "int8", "uint8", "uint16", "float16", "float32"]))
    shapes = [x[:0], x[:1], x[..., :-1], x.reshape(-1), x.T, x[None], np.concatenate([x, x])] if x.ndim else [x[None]]
    return np.ascontiguousarray(shapes[rng.integers(len(shapes))])


def _change_setting(settings: dict[str, Any], rng: np.random.Generator) -> None:
    if not settings:
        return
    field = str(rng.choice(sorted(settings)))
    if isinstance(settings[field], dict) and settings[field] and rng.random() < 0.8:
        _change_setting(settings[field], rng)
    elif rng.random() < 0.2:
        del settings[field]
    else:
        settings[field] = deepcopy(ODD[rng.integers(len(ODD))])


def _plain() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {
        places_of(name, shape, TINY)[0].tensor: rng.standard_normal(shape, np.float32)
        for name, shape in weight_shapes(TINY)
    }
