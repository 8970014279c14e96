"""compressed-tensors samples by llm-compressor on a CPU, as users quantize models: weights alone or with activations.

expected.npz is what compressed_tensors' own compressors decompress. Run by live_llmcompressor.py in an environment of
its own. Its versions of today write no weight_g_idx.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from reference import plain_name, save_expected
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

IGNORE = ["lm_head", "re:.*gate$"]


def weights(**fields: Any) -> dict[str, Any]:
    """config_groups of one group with these settings for weights."""
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"type": "int"} | fields}}}


# model, dtype, modifier, its options, whether activations have to be calibrated
CASES: dict[str, tuple[str, torch.dtype, Any, dict[str, Any], bool]] = {
    "w4a16": ("toy", torch.bfloat16, QuantizationModifier, {"scheme": "W4A16"}, False),
    "w4a16-asym": ("toy", torch.float16, QuantizationModifier, {"scheme": "W4A16_ASYM"}, False),
    "w4a16-gptq": ("odd", torch.bfloat16, GPTQModifier, weights(num_bits=4, strategy="group", group_size=32), True),
    "w8a16": ("toy", torch.bfloat16, QuantizationModifier, {"scheme": "W8A16"}, False),
    "w4-group-32": (
        "odd", torch.float16, QuantizationModifier,
        weights(num_bits=4, strategy="group", group_size=32, symmetric=False), False,
    ),
    "w3-channel": (
        "odd", torch.bfloat16, QuantizationModifier, weights(num_bits=3, strategy="channel", symmetric=False), False,
    ),
    "w8a8": ("toy", torch.bfloat16, QuantizationModifier, {"scheme": "W8A8"}, False),
    "fp8-dynamic": ("toy", torch.bfloat16, QuantizationModifier, {"scheme": "FP8_DYNAMIC"}, False),
    "fp8": ("odd", torch.bfloat16, QuantizationModifier, {"scheme": "FP8"}, True),
    "fp8-block": ("toy", torch.bfloat16, QuantizationModifier, {"scheme": "FP8_BLOCK"}, False),
    "fp8-block-odd": ("odd", torch.float16, QuantizationModifier, {"scheme": "FP8_BLOCK"}, False),
    "w4a16-pocket": ("pocket", torch.bfloat16, QuantizationModifier, {"scheme": "W4A16_ASYM"}, False),
    "w8a8-pocket": ("pocket", torch.bfloat16, QuantizationModifier, {"scheme": "W8A8"}, False),
    "fp8-pocket": ("pocket", torch.bfloat16, QuantizationModifier, {"scheme": "FP8_DYNAMIC"}, False),
}  # fmt: skip


def write(sample: Path, model: Path, dtype: torch.dtype, modifier: Any, options: dict[str, Any], data: bool) -> None:
    """Quantize and save a model, then what compressed_tensors reads back."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    calibration = {}
    if data:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(3, loaded.config.vocab_size, (16, 64), generator=generator).tolist()
        dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 64] * len(rows)})
        calibration = {"dataset": dataset, "num_calibration_samples": len(rows), "max_seq_length": 64}
    kind = {} if "config_groups" in options else {"targets": "Linear"}
    oneshot(model=loaded, recipe=modifier(ignore=IGNORE, **kind, **options), **calibration)
    loaded.save_pretrained(sample, save_compressed=True)
    save_expected(sample, model, decompressed(sample))


def decompressed(sample: Path) -> dict[str, torch.Tensor]:
    """Module, as plain files name it -> weight, of every module that has a scale."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sample.glob("*.safetensors"):
        tensors |= load_file(file)
    settings = json.loads((sample / "config.json").read_text())["quantization_config"]
    (scheme,) = QuantizationConfig.model_validate(settings).config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format or settings["format"])
    expected = {}
    for name in sorted(tensors):
        module, _, part = name.rpartition(".")
        if part != "weight_scale":
            continue
        state = {key.removeprefix(f"{module}."): x for key, x in tensors.items() if key.startswith(f"{module}.")}
        expected[plain_name(module)] = compressor.decompress(state, scheme)["weight"]
    return expected


def main(folder: Path) -> None:
    for name, (model, *options) in CASES.items():
        if (folder / "models" / model).is_dir():
            write(folder / name, folder / "models" / model, *options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
