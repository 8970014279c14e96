"""Record bitsandbytes.safetensors: small matrices as bitsandbytes quantizes, saves and dequantizes them.

Run in build/formats/bitsandbytes (`make test-formats` makes it): python record_bitsandbytes.py
Recorded 2026-11-21 with bitsandbytes 0.50.2 and torch 2.13.0.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes import functional
from safetensors.torch import save_file

HERE = Path(__file__).parent
CASES = {  # kind, block size, whether absmax is quantized, dtype, shape
    "nf4": ("nf4", 64, False, torch.float16, (6, 64)),
    "nf4-nested": ("nf4", 32, True, torch.bfloat16, (40, 256)),
    "fp4-nested": ("fp4", 128, True, torch.float32, (4, 256)),
    "fp4": ("fp4", 2048, False, torch.bfloat16, (5, 512)),
}


def digest(x: torch.Tensor) -> torch.Tensor:
    """uint8 [32]: SHA-256 of a tensor's numbers as float32."""
    return torch.tensor(list(hashlib.sha256(x.float().numpy().tobytes()).digest()), dtype=torch.uint8)


def main() -> None:
    """Each case's tensors as those of a module called as it is, and the digest of what it is read as: CASE.sha256."""
    torch.manual_seed(0)
    tensors = {}
    for case, (kind, block_size, nested, dtype, shape) in CASES.items():
        x = torch.randn(shape).to(dtype)
        packed, state = functional.quantize_4bit(x, None, None, block_size, nested, kind)
        tensors[f"{case}.weight"] = packed
        for part, value in state.as_dict(packed=True).items():
            tensors[f"{case}.weight.{part}"] = value
        tensors[f"{case}.sha256"] = digest(functional.dequantize_4bit(packed, state))
    linear = bitsandbytes.nn.Linear8bitLt(16, 6, bias=False, has_fp16_weights=False)
    linear.weight = bitsandbytes.nn.Int8Params(torch.randn(6, 16).half(), requires_grad=False, has_fp16_weights=False)
    linear.to("cpu")
    linear.weight = linear.weight.to("cpu")
    tensors |= {f"int8.{name}": value for name, value in linear.state_dict().items()}
    tensors["int8.sha256"] = digest(functional.int8_vectorwise_dequant(linear.weight.data, linear.weight.SCB))
    save_file(tensors, HERE / "bitsandbytes.safetensors")


if __name__ == "__main__":
    main()
