"""GPTQ in Hugging Face folders, as AutoGPTQ and gptqmodel write it: symmetric or not, with act-order or not.

    M.qweight M.qzeros M.scales M.g_idx    as quant/gptq.py has them; g_idx may be missing
    M.bias                                 zeros in some older files

The router, lm_head and embeddings are plain, lm_head only where "lm_head" is false. Older folders say all this in
quantize_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octuor.checkpoint.schemes.base import Finder, Scheme, group_size_of, integer, refuse, refuse_bias, refuse_unless
from octuor.checkpoint.tensors import TensorStore
from octuor.quant.base import ceil_div
from octuor.quant.gptq import BITS, Gptq
from octuor.weights import Weight

ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}
SCALES = ("F16", "BF16", "F32")
PARTS = ("qweight", "qzeros", "scales")


def open_gptq(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:
    """A finder of matrices as config.json describes them; "dynamic" settings are read off each matrix's shape."""
    bits = integer(settings, ("bits", "w_bit", "wbits"), BITS, tensors)
    stated_size = integer(settings, ("group_size", "q_group_size"), None, tensors)
    is_dynamic = bool(settings.get("dynamic"))
    layout = settings.get("checkpoint_format", settings.get("format", "gptq"))
    if settings.get("is_marlin_format"):
        layout = "marlin"
    if layout not in list(ZERO_OFFSETS):  # of a type that has no hash, perhaps
        raise refuse(tensors, "checkpoint_format", " or ".join(ZERO_OFFSETS), layout)
    refuse_unless(settings, "pack_dtype", "int32", tensors)
    refuse_unless(settings, "rotation", None, tensors)

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if len(shape) != 2 or not any(f"{module}.{part}" in tensors for part in PARTS):
            return None
        refuse_bias(tensors, module)
        out, inputs = shape
        storage = Gptq(bits, group_size_of(stated_size, inputs), ZERO_OFFSETS[layout])
        if is_dynamic:
            storage = _as_stored(tensors, module, inputs, storage)
        n_groups = ceil_div(inputs, storage.group_size)
        data = tensors.expect(f"{module}.qweight", ["I32"], [ceil_div(inputs * storage.bits, 32), out])
        parts = {
            "qzeros": tensors.expect(f"{module}.qzeros", ["I32"], [n_groups, ceil_div(out * storage.bits, 32)]),
            "scales": tensors.expect(f"{module}.scales", SCALES, [n_groups, out]),
        }
        if f"{module}.g_idx" in tensors:
            parts["g_idx"] = tensors.expect(f"{module}.g_idx", ["I32"], [inputs])
        return Weight(data, shape, storage, name, parts)

    return find


def _as_stored(tensors: TensorStore, module: str, inputs: int, stated: Gptq) -> Gptq:
    """Bits and group size of one matrix where they differ from matrix to matrix; as stated where no others fit."""
    words = tensors.expect(f"{module}.qweight", ["I32"], [None, None]).shape[0]
    n_groups = tensors.expect(f"{module}.scales", SCALES, [None, None]).shape[0]
    bits = next((bits for bits in BITS if ceil_div(inputs * bits, 32) == words), stated.bits)
    size = stated.group_size
    if ceil_div(inputs, size) != n_groups and n_groups and inputs % n_groups == 0:
        size = inputs // n_groups
    return Gptq(bits, size, stated.zero_offset)


SCHEME = Scheme(("gptq",), open_gptq)
