"""EXL2 in Hugging Face folders, as ExLlamaV2's convert.py writes them: embeddings, norms and router are plain.

    M.q_weight M.q_scale M.q_scale_max M.q_groups M.q_invperm    as quant/exl2.py has them, out padded to 32

lm_head is quantized too. A q_perm that some files add says the same as q_invperm and is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octuor.checkpoint.schemes.base import Finder, Scheme, refuse_bias
from octuor.checkpoint.tensors import TensorStore
from octuor.errors import CheckpointError, ShapeError
from octuor.quant.base import ceil_div
from octuor.quant.exl2 import WORD, Exl2, permutation_error
from octuor.weights import Weight

PARTS = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm")


def open_exl2(settings: Mapping[str, Any], tensors: TensorStore) -> Finder:  # noqa: ARG001
    """A finder that goes by the tensors alone: config.json has averages only."""

    def find(module: str, shape: tuple[int, ...], name: str) -> Weight | None:
        if len(shape) != 2 or not any(f"{module}.{part}" in tensors for part in PARTS):
            return None
        refuse_bias(tensors, module)
        out, inputs = shape
        padded = ceil_div(out, WORD) * WORD
        q_groups = tensors.expect(f"{module}.q_groups", ["I16"], [None])
        n_groups = len(q_groups) // 2
        q_invperm = tensors.expect(f"{module}.q_invperm", ["I32"], [inputs])
        parts = {
            "q_scale": tensors.expect(f"{module}.q_scale", ["I32"], [n_groups, padded // 8])[:, : ceil_div(out, 8)],
            "q_scale_max": tensors.expect(f"{module}.q_scale_max", ["F16"], [n_groups]),
            "q_groups": q_groups,
            "q_invperm": q_invperm,
        }
        if (wrong := permutation_error(q_invperm)) is not None:
            raise CheckpointError(f"{module}: {wrong} ({tensors.path(f'{module}.q_invperm').name}); download it again")
        data = tensors.expect(f"{module}.q_weight", ["I32"], [None, padded])[:, :out]
        try:
            return Weight(data, shape, Exl2(), name, parts)
        except ShapeError as error:
            raise CheckpointError(
                f"{error} ({tensors.path(f'{module}.q_weight').name}); does config.json belong to these files?"
            ) from error

    return find


SCHEME = Scheme(("exl2",), open_exl2)
