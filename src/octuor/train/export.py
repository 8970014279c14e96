"""What a run leaves behind: a Hugging Face checkpoint that transformers loads, and an octuor pack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octuor.config import ModelConfig
from octuor.quant import BF16
from octuor.tools.convert import convert
from octuor.tools.export.huggingface import write_huggingface
from octuor.train.recipe import Export
from octuor.train.state import TrainState


def export(state: TrainState, run: Path, tokenizer: Path) -> tuple[Path, Path]:
    """Write what a recipe's run has learned; as export_weights."""

    def values(name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = state.masters[name].numpy()
        return array

    return export_weights(state.recipe.model, values, state.recipe.export, run, tokenizer)


def export_weights(
    config: ModelConfig, values: Callable[[str], NDArray[np.float32]], plan: Export, run: Path, tokenizer: Path | None
) -> tuple[Path, Path]:
    """Write run/huggingface (bf16) and run/model.octuor (the plan's formats); returns both paths."""
    folder, pack = run / "huggingface", run / "model.octuor"
    write_huggingface(folder, config, values, BF16, tokenizer, overwrite=True)
    convert(folder, pack, plan.format, overrides=plan.overrides, overwrite=True)
    return folder, pack
