"""transformers' description of a checkpoint that Octuor reads."""

from __future__ import annotations

import json

from transformers import AutoConfig, PretrainedConfig

from octuor.checkpoint import Checkpoint
from octuor.checkpoint.huggingface_config import write_config
from octuor.tokenizer import open_tokenizer


def transformers_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """A MixtralConfig or MistralConfig, with the tokenizer's ends where there is one."""
    fields = json.loads(write_config(checkpoint.config, "float32"))
    if checkpoint.tokenizer is not None:
        tokenizer = open_tokenizer(checkpoint.tokenizer)
        fields |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return AutoConfig.for_model(fields.pop("model_type"), **fields)
