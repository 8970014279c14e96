"""compressed-tensors, as llm-compressor and vLLM's own repositories write it: w4a16, w8a16, w8a8 and FP8.

pack-quantized                     M.weight_packed M.weight_scale M.weight_shape [M.weight_zero_point] [M.weight_g_idx]
int-quantized, naive-quantized     M.weight int8 M.weight_scale [M.weight_zero_point]
float-quantized, naive-quantized   M.weight float8 M.weight_scale
M.input_scale and the like are of activations: not needed, for ours are not rounded.

A module without these tensors is plain, whatever "ignore" says. Formats of several kinds may stand side by side, each
group of modules with its own ("mixed-precision").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octuor.checkpoint.schemes.base import Finder, Scheme, group_size_of, refuse, refuse_bias
from octuor.checkpoint.schemes.fp8 import block_scale, float8_weight, is_float8
from octuor.checkpoint.tensors import TensorStore
from octuor.quant.base import Array, ceil_div
from octuor.quant.compressed import Bytes, Packed
from octuor.weights import Weight

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
SCALES = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Group:
    """What one of config_groups says of the weights of its modules.

    group_size  inputs that share a scale; -1: all of them
    block       rows and inputs of blocks that share a scale; None: no blocks
    """

    bits: int
    group_size: int
    block: tuple[int, int] | None


def open_compressed(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:
    """A finder of matrices as config_groups describe them; CheckpointError on sparsity, transforms and FP4."""
    if (layout := settings.get("format", "dense")) not in FORMATS:
        raise refuse(tensors, "format", " or ".join(FORMATS), layout)
    for field in ("sparsity_config", "transform_config"):
        found = settings.get(field) or {}
        if not isinstance(found, Mapping) or found.get("format", "dense") != "dense" or found.get("config_groups"):
            raise refuse(tensors, field, "none", found)
    groups = [_read_group(group, tensors) for group in _groups(settings, tensors)]

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if len(shape) != 2:
            return None
        weight = f"{module}.weight"
        if any(f"{weight}_{part}" in tensors for part in ("packed", "shape")):
            return _packed(tensors, module, shape, name, groups)
        if weight in tensors and tensors.tensor(weight).dtype == "I8":
            return _bytes(tensors, module, shape, name)
        if is_float8(tensors, module):
            blocks = [group.block for group in groups if group.block is not None]
            return float8_weight(tensors, module, shape, name, blocks[0] if blocks else None)
        return None

    return find


def _packed(tensors: TensorStore, module: str, shape: tuple[int, ...], name: str, groups: list[Group]) -> Weight:
    refuse_bias(tensors, module)
    out, inputs = shape
    storage = _fitting(tensors, module, shape, groups)
    bits, n_groups = storage.bits, ceil_div(inputs, storage.group_size)
    data = tensors.expect(f"{module}.weight_packed", ["I32"], [out, ceil_div(inputs * bits, 32)])
    parts: dict[str, Array] = {"scale": tensors.expect(f"{module}.weight_scale", SCALES, [out, n_groups])}
    if (zeros := f"{module}.weight_zero_point") in tensors:
        parts["zero_point"] = tensors.expect(zeros, ["I32"], [ceil_div(out * bits, 32), n_groups])
    if (order := f"{module}.weight_g_idx") in tensors:
        parts["g_idx"] = tensors.expect(order, ["I32"], [inputs])
    return Weight(data, shape, storage, name, parts)


def _fitting(tensors: TensorStore, module: str, shape: tuple[int, ...], groups: list[Group]) -> Packed:
    """The storage of the first group that a matrix's shapes fit, so that expressions in `targets` need not be run; the
    first group's if none does."""
    packed, scale = (tensors.tensor(f"{module}.weight_{part}").shape for part in ("packed", "scale"))
    storages = [Packed(group.bits, group_size_of(group.group_size, shape[1])) for group in groups]
    for storage in storages:
        n_groups = ceil_div(shape[1], storage.group_size)
        if packed[1:] == (ceil_div(shape[1] * storage.bits, 32),) and scale[1:] == (n_groups,):
            return storage
    return storages[0]


def _bytes(tensors: TensorStore, module: str, shape: tuple[int, ...], name: str) -> Weight:
    refuse_bias(tensors, module)
    data = tensors.expect(f"{module}.weight", ["I8"], shape)
    scale, rows, _ = block_scale(tensors, f"{module}.weight_scale", shape, None)
    parts = {"scale": scale}
    if (zeros := f"{module}.weight_zero_point") in tensors:
        found = tensors.tensor(f"{module}.weight_scale").shape
        parts["zero_point"] = tensors.expect(zeros, ["I8"], found).reshape(scale.shape)
    return Weight(data, shape, Bytes(rows), name, parts)


def _groups(settings: Mapping[str, Any], tensors: TensorStore) -> Sequence[Any]:
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise refuse(tensors, "config_groups", "with groups by name", groups)
    return list(groups.values())


def _read_group(fields: Any, tensors: TensorStore) -> Group:
    """One of config_groups; CheckpointError on weights that cannot be read."""
    weights = fields.get("weights") if isinstance(fields, Mapping) else None
    if not isinstance(weights, Mapping):
        raise refuse(tensors, "config_groups", "weights in each group", fields)
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    if type(bits) is not int or not 1 <= bits <= 8 or (kind, bits) not in (("float", 8), ("int", bits)):
        raise refuse(tensors, "weights", "int of 1 to 8 bits or float of 8", f"{kind} of {bits} bits")
    size = weights.get("group_size")
    if size is None or weights.get("strategy") in ("channel", "tensor"):
        size = -1
    if type(size) is not int or not (size == -1 or size >= 1):
        raise refuse(tensors, "group_size", "a positive number", size)
    block = weights.get("block_structure")
    if block is None:
        return Group(bits, size, None)
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise refuse(tensors, "block_structure", "two positive numbers", block)
    return Group(bits, size, (block[0], block[1]))


SCHEME = Scheme(("compressed-tensors", "compressed_tensors"), open_compressed)
