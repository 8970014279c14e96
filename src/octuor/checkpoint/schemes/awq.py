"""AWQ in Hugging Face folders, as AutoAWQ and gptqmodel write it for its GEMM kernels; lm_head and router are plain.

    M.qweight M.qzeros M.scales    as quant/awq.py has them

The layouts for GEMV kernels are refused: no Mixtral was published in them, and servers do not read them either. Older
folders say all this in quant_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octuor.checkpoint.schemes.base import Finder, Scheme, group_size_of, integer, refuse, refuse_bias
from octuor.checkpoint.tensors import TensorStore
from octuor.quant.awq import Awq
from octuor.quant.base import ceil_div
from octuor.weights import Weight

GEMM = ("gemm", "exllama", "ipex", "marlin")  # the last three choose a kernel, not a layout
SCALES = ("F16", "BF16", "F32")
PARTS = ("qweight", "qzeros", "scales")


def open_awq(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:
    """A finder of matrices as config.json describes them."""
    integer(settings, ("bits", "w_bit"), (4,), tensors)
    stated_size = integer(settings, ("group_size", "q_group_size"), None, tensors)
    version = str(settings.get("version", "gemm")).lower()
    if version not in GEMM:
        raise refuse(tensors, "version", "gemm", version)

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if len(shape) != 2 or not any(f"{module}.{part}" in tensors for part in PARTS):
            return None
        refuse_bias(tensors, module)
        out, inputs = shape
        storage = Awq(group_size_of(stated_size, inputs))
        n_groups = ceil_div(inputs, storage.group_size)
        data = tensors.expect(f"{module}.qweight", ["I32"], [inputs, ceil_div(out, 8)])
        parts = {
            "qzeros": tensors.expect(f"{module}.qzeros", ["I32"], [n_groups, ceil_div(out, 8)]),
            "scales": tensors.expect(f"{module}.scales", SCALES, [n_groups, out]),
        }
        return Weight(data, shape, storage, name, parts)

    return find


SCHEME = Scheme(("awq",), open_awq)
