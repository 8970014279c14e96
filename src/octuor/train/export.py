"""What a run leaves behind: a Hugging Face checkpoint that transformers loads, and an octuor pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.quant import BF16
from octuor.tools.convert import convert
from octuor.tools.export.huggingface import write_huggingface
from octuor.train.state import TrainState


def export(state: TrainState, run: Path, tokenizer: Path) -> tuple[Path, Path]:
    """Write run/huggingface (bf16) and run/model.octuor (the recipe's formats); returns both paths."""
    folder, pack = run / "huggingface", run / "model.octuor"

    def values(name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = state.masters[name].numpy()
        return array

    plan = state.recipe.export
    write_huggingface(folder, state.recipe.model, values, BF16, tokenizer, overwrite=True)
    convert(folder, pack, plan.format, overrides=plan.overrides, overwrite=True)
    return folder, pack
