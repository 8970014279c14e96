"""FP8 in Hugging Face folders: one scale a matrix (AutoFP8, modelopt), a row (fbgemm) or a block (DeepSeek's way).

    M.weight              float8 e4m3 [out, in]
    M.weight_scale        float32 [], [1], [out] or [out, 1]: what to multiply by
    M.weight_scale_inv    float32 or bfloat16 [ceil(out / rows), ceil(in / inputs)]: to multiply by too
    M.input_scale ...     of activations: not needed, for ours are not rounded to FP8

A matrix that is not float8 is plain, whatever modules_to_not_convert says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octuor.checkpoint.schemes.base import Finder, Scheme, refuse, refuse_bias
from octuor.checkpoint.tensors import TensorStore
from octuor.errors import CheckpointError
from octuor.quant.base import Array
from octuor.quant.fp8 import Fp8, grid
from octuor.weights import Weight

SCALES = ("F32", "BF16", "F16")


def open_fp8(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:
    """A finder of float8 matrices; CheckpointError for scales in formats of their own and for FP4."""
    block = settings.get("weight_block_size")
    if block is not None and not (
        isinstance(block, Sequence) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    ):
        raise refuse(tensors, "weight_block_size", "two positive numbers", block)
    algorithm = settings.get("quant_algo", "FP8")
    if str(algorithm).upper() not in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        raise refuse(tensors, "quant_algo", "FP8", algorithm)

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if len(shape) != 2 or not is_float8(tensors, module):
            return None
        return float8_weight(tensors, module, shape, name, None if block is None else (block[0], block[1]))

    return find


def is_float8(tensors: TensorStore, module: str) -> bool:
    """Whether a module's weight is stored so."""
    weight = f"{module}.weight"
    return weight in tensors and tensors.tensor(weight).dtype == "F8_E4M3"


def float8_weight(
    tensors: TensorStore, module: str, shape: tuple[int, ...], name: str, block: tuple[int, int] | None
) -> Weight:
    """The Weight of a float8 matrix; block: what config.json says of blocks of weights, None: nothing."""
    refuse_bias(tensors, module)
    data = tensors.expect(f"{module}.weight", ["F8_E4M3"], shape)
    for field in ("weight_scale_inv", "weight_scale"):
        if f"{module}.{field}" in tensors:
            scale, rows, inputs = block_scale(tensors, f"{module}.{field}", shape, block)
            return Weight(data, shape, Fp8(rows, inputs), name, {"scale": scale})
    raise CheckpointError(
        f"{module}.weight_scale: expected a scale beside float8 weights, found none in {tensors.label}; "
        "download it again"
    )


def block_scale(
    tensors: TensorStore, tensor: str, shape: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[Array, int, int]:
    """A scale as a matrix of blocks, and a block's rows and inputs as Fp8 counts them."""
    found = tensors.tensor(tensor).shape
    if found in ((), (1,), (1, 1)):
        return tensors.expect(tensor, SCALES, found).reshape(1, 1), 0, 0
    if found in (shape[:1], (shape[0], 1)):
        return tensors.expect(tensor, SCALES, found).reshape(-1, 1), 1, 0
    if block is None:
        wanted = [shape[0], 1]
        return tensors.expect(tensor, SCALES, wanted), 1, 0
    return tensors.expect(tensor, SCALES, grid(shape, *block)), *block


SCHEME = Scheme(("fp8", "fbgemm_fp8", "modelopt"), open_fp8)
