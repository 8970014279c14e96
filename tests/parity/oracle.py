"""The outside model: transformers' Mixtral and Mistral with a case's weights, loaded from files that we write.

Eager attention and experts, float32: transformers' plainest path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from octuor.checkpoint.huggingface import places_of
from octuor.config import ModelConfig
from octuor.quant import F32, Format
from octuor.tools.export.huggingface import write_huggingface
from octuor.weights import weight_shapes
from parity.cases import N_GREEDY, Case
from parity.checks import Expected

PLAIN = {"attn_implementation": "eager", "experts_implementation": "eager"}


def write_folder(case: Case, folder: Path, row: Format = F32) -> Path:
    """The case's model in the Hugging Face layout."""
    write_huggingface(folder, case.config, case.values.__getitem__, row)
    return folder


def load(folder: Path) -> Any:
    """transformers' model of a folder, float32."""
    options = {key: value for key, value in PLAIN.items() if key != "experts_implementation" or _is_mixture(folder)}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def _is_mixture(folder: Path) -> bool:
    return '"mixtral"' in (folder / "config.json").read_text()


def expect(oracle: Any, case: Case) -> Expected:
    """Logits of the prompt, and the tokens that transformers' own greedy search finds with its own cache."""
    ids = torch.tensor([case.prompt])
    with torch.no_grad():
        logits = oracle(ids).logits[0]
        found = search(oracle, ids)
    return Expected(logits.numpy(), found.sequences[0, len(case.prompt) :].numpy())


def search(oracle: Any, ids: Tensor) -> Any:
    """Greedy search over N_GREEDY tokens with the logits of every step; no token ends it."""
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=N_GREEDY, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    oracle.generation_config.eos_token_id = None
    return oracle.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)


def gradient(oracle: Any, name: str, config: ModelConfig) -> Tensor:
    """The gradient of a canonical weight, found where transformers holds it in memory."""
    parameters = dict(oracle.named_parameters())
    shape = dict(weight_shapes(config))[name]
    place = next(place for place in places_of(name, shape, config) if place.tensor in parameters)
    grad: Tensor = parameters[place.tensor].grad[place.part]
    return grad
