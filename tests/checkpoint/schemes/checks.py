"""What every quantized folder has to do: hold its values, open lazily, refuse what is wrong with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from checkpoint.schemes.quantized_folders import Quantized
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.huggingface import places_of
from octuor.errors import OctuorError
from octuor.weights import Weight

WQ = "model.layers.0.self_attn.q_proj"


def assert_reads(folder: Quantized, path: Path, *, file: str = "model.safetensors") -> dict[str, Weight]:
    """Every matrix has its values bit for bit; the weights by canonical name."""
    checkpoint = open_checkpoint(folder.write(path, file))
    weights = {name: checkpoint.get(name) for name in checkpoint.names}
    seen = set()
    for name, weight in weights.items():
        for place in places_of(name, weight.shape, checkpoint.config):
            module = place.tensor.removesuffix(".weight")
            if module in folder.values:
                np.testing.assert_array_equal(weight.to_f32(), folder.values[module], err_msg=name)
                assert not weight.data.flags.owndata
                seen.add(module)
    assert seen == set(folder.values)
    return weights


def refusal(folder: Quantized, path: Path) -> str:
    """The line with which a folder is refused when it is opened or where it is read; "" where it is not."""
    try:
        checkpoint = open_checkpoint(folder.write(path))
        for name in checkpoint.names:
            checkpoint.get(name).to_f32()
    except OctuorError as error:
        return str(error)
    return ""
