"""FP8 samples by transformers' fine-grained FP8 on a CPU: its quantizing step for each matrix, by blocks or whole.

expected.npz is what its dequantizing step gives; own_logits.npy are those of the folder loaded by transformers, which
dequantizes it where there is no GPU. Run by live_transformers.py; the parity environment has all that it needs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reference import matrices, save_expected, save_sample
from transformers import AutoModelForCausalLM, FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

CASES = {
    "fp8-blocks": ("toy", (128, 128)),
    "fp8-small-blocks": ("odd", (32, 16)),
    "fp8-matrix": ("odd", None),
    "fp8-blocks-pocket": ("pocket", (128, 128)),
}


@dataclass(frozen=True)
class Quantizer:
    """All that the two steps ask of transformers' quantizer."""

    quantization_config: FineGrainedFP8Config


def write(sample: Path, model: Path, block: tuple[int, int] | None) -> None:
    config = FineGrainedFP8Config(weight_block_size=block, modules_to_not_convert=["lm_head", "gate"])
    quantizer = Quantizer(config)
    modules, expected = {}, {}
    for module, weight in matrices(model).items():
        done = Fp8Quantize(quantizer).convert({f"{module}.weight": weight})
        parts = {name.removeprefix(f"{module}."): x for name, x in done.items()}
        modules[module] = parts
        expected[module] = Fp8Dequantize(quantizer).convert(parts)["weight"]
    save_sample(sample, model, modules, config.to_dict())
    save_expected(sample, model, expected)
    loaded = AutoModelForCausalLM.from_pretrained(sample).to(torch.float32).eval()
    tokens = torch.from_numpy(np.load(sample.parent / "tokens.npy"))
    with torch.no_grad():
        np.save(sample / "own_logits.npy", loaded(tokens[None]).logits[0].numpy())


def main(folder: Path) -> None:
    for name, (model, block) in CASES.items():
        if (folder / "models" / model).is_dir():
            write(folder / name, folder / "models" / model, block)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
