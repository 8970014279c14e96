"""Record hqq.safetensors: small matrices as hqq quantizes, saves and dequantizes them.

Run in build/formats/hqq (`make test-formats` makes it): python record_hqq.py
Recorded 2026-11-21 with hqq 0.2.8.post1 and torch 2.13.0.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from hqq.core.quantize import HQQLinear, hqq_base_quant_config
from safetensors.torch import save_file

HERE = Path(__file__).parent
KEYS = (
    "W_q", "zero", "scale", "shape", "nbits", "group_size", "axis", "packing", "compute_dtype", "quant_zero",
    "quant_scale",
)  # fmt: skip
CASES = {  # bits, axis, group size, compute dtype, shape, codes stored as floats
    "8": (8, 1, 8, torch.float16, (6, 8), False),
    "4": (4, 1, 8, torch.bfloat16, (6, 16), False),
    "4-axis-0": (4, 0, 8, torch.float16, (6, 16), False),
    "4-across-rows": (4, 1, 24, torch.float16, (12, 8), False),
    "4-as-float": (4, 1, 8, torch.float16, (6, 16), True),
    "4-rows": (4, 1, None, torch.float32, (6, 10), False),
    "4-columns": (4, 0, None, torch.float16, (6, 10), False),
    "3": (3, 1, 16, torch.float16, (11, 16), False),
    "3-axis-0": (3, 0, 8, torch.bfloat16, (6, 12), False),
    "2": (2, 1, 16, torch.float16, (8, 16), False),
    "2-axis-0": (2, 0, 16, torch.float16, (6, 16), False),
    "1.58": (1.58, 1, 16, torch.float16, (8, 16), False),
    "1": (1, 1, 16, torch.float16, (8, 16), False),
    "1-axis-0": (1, 0, 8, torch.float32, (6, 16), False),
    "5": (5, 1, 8, torch.float16, (6, 8), False),
}


def digest(x: torch.Tensor) -> torch.Tensor:
    """uint8 [32]: SHA-256 of a tensor's numbers as float32."""
    return torch.tensor(list(hashlib.sha256(x.float().numpy().tobytes()).digest()), dtype=torch.uint8)


def main() -> None:
    """Each case's tensors as those of a module called as it is, and the digest of what it is read as: CASE.sha256."""
    torch.manual_seed(0)
    tensors = {}
    for case, (bits, axis, group_size, dtype, shape, as_float) in CASES.items():
        linear = torch.nn.Linear(shape[1], shape[0], bias=False)
        config = hqq_base_quant_config(nbits=bits, group_size=group_size, axis=axis, view_as_float=as_float)
        layer = HQQLinear(linear, config, compute_dtype=dtype, device="cpu")
        tensors |= {f"{case}.{key}": layer.state_dict()[key] for key in KEYS}
        tensors[f"{case}.sha256"] = digest(layer.dequantize())
    save_file(tensors, HERE / "hqq.safetensors")


if __name__ == "__main__":
    main()
