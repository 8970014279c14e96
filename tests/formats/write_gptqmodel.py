"""GPTQ and AWQ samples by gptqmodel on a CPU: whole models as users quantize them, and each option matrix by matrix.

Whole models come through GPTQModel.quantize and save, with own_logits.npy, gptqmodel's own float16 logits. The others
pass each matrix through its GPTQ and the pack of its kernels' module, and its own conversion of zeros; for AWQ,
through rounding of ours. expected.npz is TorchLinear.dequantize_weight or, for AWQ, dequantize_gemm.
Run by live_gptqmodel.py in an environment of its own.
"""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it wants two on machines with fewer

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from gptqmodel.quantization import GPTQ
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module
from reference import matrices, plain_name, save_expected, save_sample

MATRIX_BY_MATRIX: dict[str, tuple[str, dict[str, Any]]] = {
    "gptq-2": ("toy", {"bits": 2, "group_size": 32, "sym": False}),
    "gptq-3": ("toy", {"bits": 3, "group_size": 128, "sym": True}),
    "gptq-3-order": ("odd", {"bits": 3, "group_size": 32, "sym": False, "desc_act": True}),
    "gptq-4-odd": ("odd", {"bits": 4, "group_size": 32, "sym": True}),
    "gptq-4-v2": ("toy", {"bits": 4, "group_size": 128, "sym": False, "format": "gptq_v2"}),
    "gptq-4-row": ("odd", {"bits": 4, "group_size": -1, "sym": False}),
    "gptq-8": ("toy", {"bits": 8, "group_size": 64, "sym": False, "desc_act": True}),
    "gptq-8-v2": ("odd", {"bits": 8, "group_size": -1, "sym": True, "format": "gptq_v2"}),
}
AWQ_BY_MATRIX = {"awq-4-odd": ("odd", 32), "awq-4-row": ("toy", -1)}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "gptq-4-model": ("toy", {"bits": 4, "group_size": 128}),
    "gptq-4-model-order": ("toy", {"bits": 4, "group_size": 64, "desc_act": True, "sym": False}),
    "awq-4-model": ("toy", {"bits": 4, "group_size": 128, "quant_method": "awq", "format": "gemm"}),
}
POCKET: dict[str, tuple[str, dict[str, Any]]] = {
    "gptq-4-pocket": ("pocket", {"bits": 4, "group_size": 128, "sym": True, "desc_act": True}),
}
AWQ_POCKET = {"awq-4-pocket": ("pocket", 128)}


def gptq_by_matrix(sample: Path, model: Path, options: dict[str, Any]) -> None:
    """Every matrix through GPTQ with inputs of its own, packed by TorchLinear."""
    config = QuantizeConfig(**({"desc_act": False, "act_group_aware": False} | options))
    modules, expected = {}, {}
    for module, weight in matrices(model).items():
        linear = _linear(weight)
        task = GPTQ(linear, config)
        task.quantizer.configure(perchannel=True)
        generator = torch.Generator().manual_seed(zlib.crc32(module.encode()))
        task.add_batch(torch.randn(64, weight.shape[1], generator=generator), None)
        rounded, scale, zero, g_idx, *_ = task.quantize()
        linear.weight.data = rounded.to(weight.dtype)
        packed = TorchLinear(
            bits=config.bits, group_size=config.group_size, sym=config.sym, desc_act=config.desc_act,
            in_features=weight.shape[1], out_features=weight.shape[0], register_buffers=True,
        )  # fmt: skip
        packed.pack_block(linear.cpu(), scale.cpu(), zero.cpu(), g_idx.to(torch.int32).cpu())
        packed.post_init()
        packed.eval()
        if config.format == "gptq":
            convert_gptq_v2_to_v1_format_module(packed, config)
        modules[module] = {part: getattr(packed, part).clone() for part in ("qweight", "qzeros", "scales", "g_idx")}
        if config.format == "gptq":
            convert_gptq_v1_to_v2_format_module(packed, config.bits, torch.int32)
        expected[module] = type(packed).dequantize_weight(packed).T
    save_sample(sample, model, modules, config.to_dict())
    save_expected(sample, model, expected)


def awq_by_matrix(sample: Path, model: Path, group_size: int) -> None:
    """Every matrix rounded by groups, without a search for scales of channels, and packed by AwqTorchLinear."""
    modules, expected = {}, {}
    for module, weight in matrices(model).items():
        out, inputs = weight.shape
        size = inputs if group_size == -1 else group_size
        grouped = weight.float().reshape(out, -1, size)
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=1e-5).half()
        zero = (-low / scale.float()).round().clamp(0, 15)
        packed = AwqTorchLinear(
            bits=4, group_size=group_size, sym=False, desc_act=False, in_features=inputs, out_features=out,
        )  # fmt: skip
        nearest = ((grouped / scale[..., None].float()).round() + zero[..., None]).clamp(0, 15) - zero[..., None]
        linear = _linear((nearest * scale[..., None].float()).reshape(out, inputs))
        packed.pack(linear, scale.float(), zero)
        parts = {"qweight": packed.qweight, "qzeros": packed.qzeros, "scales": packed.scales.half()}
        modules[module] = parts
        expected[module] = dequantize_gemm(**parts, bits=4, group_size=size).T
    settings = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm"}
    save_sample(sample, model, modules, settings)
    save_expected(sample, model, expected)


def whole_model(sample: Path, model: Path, options: dict[str, Any]) -> None:
    """As a user quantizes a model, with random tokens to calibrate it."""
    quantized = GPTQModel.load(str(model), QuantizeConfig(**options), device="cpu", dtype=torch.float16)
    n_words = quantized.model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, n_words, (64,), generator=generator) for _ in range(16)]
    backend = BACKEND.AWQ_TORCH if options.get("quant_method") == "awq" else BACKEND.GPTQ_TORCH
    calibration = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    quantized.quantize(calibration, batch_size=1, backend=backend)
    quantized.save(str(sample))
    loaded = GPTQModel.load(str(sample), backend=backend, device="cpu", dtype=torch.float16)
    expected = {}
    for name, module in loaded.model.named_modules():
        if isinstance(module, TorchLinear):
            expected[plain_name(name)] = module.dequantize_weight().T
        elif isinstance(module, AwqTorchLinear):
            size = module.in_features if module.group_size == -1 else module.group_size
            parts = {"qweight": module.qweight, "qzeros": module.qzeros, "scales": module.scales}
            expected[plain_name(name)] = dequantize_gemm(**parts, bits=4, group_size=size).T
    save_expected(sample, model, expected)
    tokens = torch.from_numpy(np.load(sample.parent / "tokens.npy"))
    with torch.no_grad():
        np.save(sample / "own_logits.npy", loaded.model(tokens[None]).logits[0].float().numpy())


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.float()
    return linear


def main(folder: Path) -> None:
    models = folder / "models"
    has_pocket = (models / "pocket").is_dir()
    for name, (model, options) in (MATRIX_BY_MATRIX | (POCKET if has_pocket else {})).items():
        gptq_by_matrix(folder / name, models / model, options)
    for name, (model, group_size) in (AWQ_BY_MATRIX | (AWQ_POCKET if has_pocket else {})).items():
        awq_by_matrix(folder / name, models / model, group_size)
    for name, (model, options) in WHOLE.items():
        whole_model(folder / name, models / model, options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
