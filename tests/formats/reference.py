"""What writers share: names, and transformers' logits from a program's own dequantized weights.

Needs torch, transformers, safetensors and NumPy of any version, and nothing of ours.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ROUTER = ".block_sparse_moe.gate."
PROJECTIONS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def plain_name(module: str) -> str:
    """A module as plain files name it, from the name that programs over transformers 5 give it."""
    head, at, tail = module.replace(".block_sparse_moe.", ".mlp.").partition(".mlp.experts.")
    if not at:
        return module
    expert, _, projection = tail.partition(".")
    return f"{head}.block_sparse_moe.experts.{expert}.{PROJECTIONS[projection]}"


def matrices(folder: Path) -> dict[str, torch.Tensor]:
    """Module -> weight of every matrix of a plain checkpoint that quantizers take."""
    return {
        name.removesuffix(".weight"): x
        for name, x in load_file(folder / "model.safetensors").items()
        if ".self_attn." in name or ".experts." in name
    }


def save_sample(sample: Path, model: Path, modules: Mapping[str, Mapping[str, torch.Tensor]], settings: Any) -> None:
    """A checkpoint in which some modules' weights are replaced by other tensors."""
    tensors = load_file(model / "model.safetensors")
    for module, parts in modules.items():
        del tensors[f"{module}.weight"]
        tensors |= {f"{module}.{part}": x.contiguous() for part, x in parts.items()}
    sample.mkdir()
    save_file(tensors, sample / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (sample / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def save_expected(sample: Path, model: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """expected.npz from module -> dequantized weight, and logits.npy: transformers' in float32 with these weights.

    What the sample does not quantize is taken from it too: it may be rounded, or have taken scales in.
    """
    named: dict[str, Any] = {module: x.to(torch.float32).numpy() for module, x in expected.items()}
    np.savez(sample / "expected.npz", **named)
    tensors = load_file(model / "model.safetensors")
    for file in sample.glob("*.safetensors"):
        stored = load_file(file)
        tensors |= {new: stored[old] for old in stored if (new := old.replace(".mlp.gate.", ROUTER)) in tensors}
    tensors = {name: x.to(torch.float32) for name, x in tensors.items()}
    tensors |= {f"{module}.weight": x.to(torch.float32).contiguous() for module, x in expected.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(model / "config.json", folder)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.from_numpy(np.load(sample.parent / "tokens.npy"))
    with torch.no_grad():
        np.save(sample / "logits.npy", plain(tokens[None]).logits[0].numpy())
