"""HQQ samples on a CPU: whole models through transformers and by hqq's own save, and each option matrix by matrix.

expected.npz is HQQLinear.dequantize. transformers is of the last 4 here: 5 has fused experts, which hqq leaves alone.
Run by live_hqq.py in an environment of its own.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hqq.core.quantize import HQQLinear, hqq_base_quant_config
from hqq.models.hf.base import AutoHQQHFModel
from reference import matrices, save_expected, save_sample
from transformers import AutoModelForCausalLM, HqqConfig

ATTENTION = [f"self_attn.{letter}_proj" for letter in "qkvo"]
EXPERTS = [f"{expert}.{part}" for expert in range(4) for part in ("w1", "w2", "w3")]  # as transformers tags them
F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """Matrices all alike: what the sample is called, the model under models/, and hqq's options."""

    name: str
    model: str
    bits: float
    axis: int
    group_size: int | None
    dtype: torch.dtype = F16
    as_float: bool = False


CASES = (
    Case("hqq-8", "toy", 8, 1, 64),
    Case("hqq-8-axis-0", "toy", 8, 0, 64, BF16),
    Case("hqq-6", "toy", 6, 1, 64),
    Case("hqq-5-axis-0", "toy", 5, 0, 64),
    Case("hqq-4-axis-0", "toy", 4, 0, 64),
    Case("hqq-4-rows", "toy", 4, 1, None, BF16),
    Case("hqq-4-columns", "toy", 4, 0, None),
    Case("hqq-4-odd", "odd", 4, 1, 32, F32),
    Case("hqq-4-across-rows", "odd", 4, 1, 64),
    Case("hqq-4-as-float", "toy", 4, 1, 64, as_float=True),
    Case("hqq-3", "toy", 3, 1, 128, BF16),
    Case("hqq-3-axis-0-odd", "odd", 3, 0, 32),
    Case("hqq-3-as-float", "toy", 3, 0, 64, BF16, as_float=True),
    Case("hqq-2", "toy", 2, 1, 16),
    Case("hqq-2-axis-0", "toy", 2, 0, 16, BF16),
    Case("hqq-1.58", "toy", 1.58, 1, 64),
    Case("hqq-1", "toy", 1, 1, 32),
    Case("hqq-1-axis-0", "toy", 1, 0, 8),
)


def write_matrices(sample: Path, model_folder: Path, case: Case) -> None:
    """Each matrix by an HQQLinear, in the layout that transformers and hqq save."""
    config = hqq_base_quant_config(
        nbits=case.bits, group_size=case.group_size, axis=case.axis, view_as_float=case.as_float
    )
    config["weight_quant_params"]["optimize"] = False  # which chooses codes, not how they lie
    modules, expected = {}, {}
    for name, x in matrices(model_folder).items():
        linear = torch.nn.Linear(x.shape[1], x.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(x, requires_grad=False)
        layer = HQQLinear(linear, config, compute_dtype=case.dtype, device="cpu")
        modules[name] = {key: value for key, value in layer.state_dict().items() if value is not None}
        expected[name] = layer.dequantize()
    save_sample(sample, model_folder, modules, {"quant_method": "hqq", "quant_config": config, "skip_modules": []})
    save_expected(sample, model_folder, expected)


def write_model(sample: Path, model_folder: Path, config: HqqConfig, dtype: torch.dtype) -> None:
    """A model quantized and saved by transformers."""
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, quantization_config=config, dtype=dtype, device_map="cpu"
    )
    model.save_pretrained(sample)
    save_expected(sample, model_folder, dequantized(model))


def write_own(sample: Path, model_folder: Path) -> None:
    """A model in hqq's own layout, qmodel.pt."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=F16)
    config = hqq_base_quant_config(nbits=4, group_size=64, axis=1)
    AutoHQQHFModel.quantize_model(model, copy.deepcopy(config), compute_dtype=F16, device="cpu")
    expected = dequantized(model)
    AutoHQQHFModel.save_quantized(model, str(sample))
    save_expected(sample, model_folder, expected)


def dequantized(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.dequantize() for name, module in model.named_modules() if isinstance(module, HQQLinear)}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    models = folder / "models"
    for case in CASES:
        write_matrices(folder / case.name, models / case.model, case)
    four = HqqConfig(nbits=4, group_size=64, axis=1)
    write_model(folder / "hqq-4", models / "toy", four, F16)
    by_part = {part: {"nbits": 4, "group_size": 64, "axis": 1} for part in ATTENTION}
    by_part |= {part: {"nbits": 3, "group_size": 64, "axis": 1} for part in EXPERTS}
    mixed = HqqConfig(dynamic_config=by_part, skip_modules=["lm_head", "gate"])
    write_model(folder / "hqq-4-3", models / "toy", mixed, BF16)
    write_own(folder / "hqq-4-own", models / "toy")
    if (models / "pocket").is_dir():
        write_model(folder / "hqq-4-pocket", models / "pocket", four, F16)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
