"""What a tuning run leaves: an adapter in peft's files, or a whole model as `octuor train` leaves one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octuor.checkpoint import Checkpoint
from octuor.checkpoint.files import replacing_folder
from octuor.checkpoint.peft import CONFIG, TENSORS, module_names, peft_tensors
from octuor.checkpoint.safetensors_file import write_safetensors
from octuor.checkpoint.tensors import Tensor
from octuor.tokenizer.registry import find_tokenizer_file
from octuor.train.export import export_weights
from octuor.tune.loop import Outcome
from octuor.tune.recipe import Method, TuneRecipe

_CONFIG_ROOM = 1 << 16


def write_outputs(outcome: Outcome, recipe: TuneRecipe, checkpoint: Checkpoint, out: Path) -> list[Path]:
    """Write out/adapter, or out/huggingface and out/model.octuor; returns what was written."""
    if recipe.tune.method == "lora":
        tensors = peft_tensors(outcome.student.config, outcome.student.pairs(outcome.masters))
        return [write_adapter(out / "adapter", recipe.tune, checkpoint, tensors)]

    def values(name: str) -> NDArray[np.float32]:
        if name in outcome.masters:
            array: NDArray[np.float32] = outcome.masters[name].numpy()
            return array
        return checkpoint.get(name).to_f32()

    tokenizer = _tokenizer_file(checkpoint, out)
    return list(export_weights(outcome.student.config, values, recipe.export, out, tokenizer))


def write_adapter(path: Path, method: Method, checkpoint: Checkpoint, tensors: dict[str, NDArray[np.float32]]) -> Path:
    """Write a folder that peft's PeftModel.from_pretrained loads over the base, and we too; float32.

    peft itself writes adapter_config.json, so that its fields and defaults are those of the version that is here.
    """
    from peft import LoraConfig

    modules, parameters = module_names(checkpoint.config, method.targets)
    alpha: Any = method.alpha  # peft says int and takes any number
    config = LoraConfig(
        r=method.rank, lora_alpha=alpha, lora_dropout=method.dropout, target_modules=modules,
        target_parameters=parameters or None, task_type="CAUSAL_LM", base_model_name_or_path=method.path,
        inference_mode=True,
    )  # fmt: skip
    entries = [Tensor(name, "F32", array.shape) for name, array in sorted(tensors.items())]
    n_bytes = sum(entry.n_bytes for entry in entries)
    with replacing_folder(path, n_bytes + _CONFIG_ROOM, (CONFIG, "adapter_model*"), overwrite=True) as folder:
        write_safetensors(folder / TENSORS, entries, lambda name: [tensors[name]], {"format": "pt"})
        config.save_pretrained(str(folder))
    return path


def _tokenizer_file(checkpoint: Checkpoint, out: Path) -> Path | None:
    """The base's tokenizer as a file: its own, or written to out where it lies inside the checkpoint."""
    if isinstance(checkpoint.tokenizer, Path):
        return checkpoint.tokenizer
    data = checkpoint.tokenizer_bytes()
    if data is None or checkpoint.tokenizer_kind is None:
        return None
    (out / checkpoint.tokenizer_kind).write_bytes(data)
    return find_tokenizer_file(out)
