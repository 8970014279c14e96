"""HQQ samples by the last hqq that quantizes zeros and scales too, in its own layout, qmodel.pt.

expected.npz is HQQLinear.dequantize. Run by live_hqq.py in an environment of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hqq.core.quantize import HQQLinear, hqq_base_quant_config
from hqq.models.hf.base import AutoHQQHFModel
from reference import save_expected
from transformers import AutoModelForCausalLM

TAGS = [f"self_attn.{letter}_proj" for letter in "qkvo"] + [f"block_sparse_moe.experts.w{n}" for n in (1, 2, 3)]
CASES = {  # bits, axis, group size, whether scales are quantized as zeros are
    "hqq-4-nested": (4, 1, 64, True),
    "hqq-2-nested-axis-0": (2, 0, 16, True),
    "hqq-3-nested-zeros": (3, 1, 64, False),
}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    for name, (bits, axis, group_size, with_scales) in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(folder / "models" / "toy", dtype=torch.float16)
        config = hqq_base_quant_config(bits, group_size, quant_zero=True, quant_scale=with_scales, axis=axis)
        config["weight_quant_params"]["optimize"] = False
        AutoHQQHFModel.quantize_model(model, dict.fromkeys(TAGS, config), compute_dtype=torch.float16, device="cpu")
        AutoHQQHFModel.save_quantized(model, str(folder / name))
        expected = {part: layer.dequantize() for part, layer in model.named_modules() if isinstance(layer, HQQLinear)}
        save_expected(folder / name, folder / "models" / "toy", expected)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
