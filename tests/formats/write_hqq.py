"""Write samples with hqq: through transformers, and its own quantizer for options that a whole model has no need of.

Runs in build/formats/hqq, as samples.py has it: write_hqq.py FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hqq.core.quantize import HQQLinear, hqq_base_quant_config
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, HqqConfig

ATTENTION = [f"self_attn.{letter}_proj" for letter in "qkvo"]
EXPERTS = [f"{expert}.{part}" for expert in range(4) for part in ("w1", "w2", "w3")]  # as transformers tags them


@dataclass(frozen=True)
class Case:
    """A sample of all matrices alike: what it is called, the model under models/, how it is quantized and computed."""

    name: str
    model: str
    bits: float
    axis: int
    group_size: int | None = 64
    dtype: torch.dtype = torch.float16
    as_float: bool = False


CASES = (
    Case("hqq-8", "toy", 8, 1),
    Case("hqq-8-axis-0", "toy", 8, 0, dtype=torch.bfloat16),
    Case("hqq-4-axis-0", "toy", 4, 0),
    Case("hqq-4-rows", "toy", 4, 1, None, torch.bfloat16),
    Case("hqq-4-columns", "toy", 4, 0, None),
    Case("hqq-4-odd", "odd", 4, 1, 32, torch.float32),
    Case("hqq-4-across-rows", "odd", 4, 1, 64),
    Case("hqq-3", "toy", 3, 1, 128, torch.bfloat16),
    Case("hqq-3-axis-0", "odd", 3, 0, 32),
    Case("hqq-2", "toy", 2, 1, 16),
    Case("hqq-2-axis-0", "toy", 2, 0, 16, torch.bfloat16),
    Case("hqq-1", "toy", 1, 1, 32),
    Case("hqq-1-axis-0", "toy", 1, 0, 8),
    Case("hqq-1.58", "toy", 1.58, 1, 64),
    Case("hqq-6", "toy", 6, 1, 64),
    Case("hqq-5-axis-0", "toy", 5, 0, 64),
    Case("hqq-4-as-float", "toy", 4, 1, as_float=True),
    Case("hqq-3-as-float", "toy", 3, 0, 64, torch.bfloat16, as_float=True),
)


def write(folder: Path, case: Case) -> None:
    """Each attention and expert matrix by HQQLinear, in the layout that transformers and hqq save."""
    settings = hqq_base_quant_config(
        nbits=case.bits, group_size=case.group_size, axis=case.axis, view_as_float=case.as_float
    )
    settings["weight_quant_params"]["optimize"] = False  # where codes are chosen, not how they lie
    tensors, expected = {}, {}
    for name, x in load_file(folder / "models" / case.model / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if "_proj" not in name and ".experts." not in name:
            tensors[name] = x
            continue
        linear = torch.nn.Linear(x.shape[1], x.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(x, requires_grad=False)
        layer = HQQLinear(linear, settings, compute_dtype=case.dtype, device="cpu")
        tensors |= {f"{module}.{key}": value for key, value in layer.state_dict().items() if value is not None}
        expected[module] = layer.dequantize().float().numpy()
    sample = folder / case.name
    sample.mkdir()
    save_file({name: x.contiguous() for name, x in tensors.items()}, sample / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "models" / case.model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "quant_config": settings, "skip_modules": ["lm_head"]}
    (sample / "config.json").write_text(json.dumps(config))
    np.savez(sample / "expected.npz", **expected)


def write_model(folder: Path, name: str, model_name: str, config: HqqConfig, dtype: torch.dtype) -> None:
    """A whole model through transformers, with its logits from the dequantized weights in float32."""
    model = AutoModelForCausalLM.from_pretrained(
        folder / "models" / model_name, quantization_config=config, dtype=dtype, device_map="cpu"
    )
    model.save_pretrained(folder / name)
    expected = {}
    for module_name, module in list(model.named_modules()):
        if isinstance(module, HQQLinear):
            expected[module_name] = module.dequantize().float().numpy()
            plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            plain.weight = torch.nn.Parameter(torch.from_numpy(expected[module_name]), requires_grad=False)
            model.set_submodule(module_name, plain)
    np.savez(folder / name / "expected.npz", **expected)
    model.is_quantized, model.quantization_method = False, None  # or .float() is refused
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))[None]
    with torch.inference_mode():
        np.save(folder / name / "logits.npy", model.float()(tokens).logits[0].numpy())


def main(folder: Path) -> None:
    """All samples whose model is there."""
    torch.manual_seed(0)
    for case in CASES:
        write(folder, case)
    four = HqqConfig(nbits=4, group_size=64, axis=1)
    write_model(folder, "hqq-4", "toy", four, torch.float16)
    by_part = {part: {"nbits": 4, "group_size": 64, "axis": 1} for part in ATTENTION}
    by_part |= {part: {"nbits": 3, "group_size": 64, "axis": 1} for part in EXPERTS}
    mixed = HqqConfig(dynamic_config=by_part, skip_modules=["lm_head", "gate"])
    write_model(folder, "hqq-4-3", "toy", mixed, torch.bfloat16)
    if (folder / "models" / "pocket").is_dir():
        write_model(folder, "hqq-4-pocket", "pocket", four, torch.float16)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
