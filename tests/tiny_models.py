"""Models that run in microseconds: one with random weights, one that says what it is told to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from octuor.checkpoint import Checkpoint
from octuor.config import ModelConfig
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.convert import convert
from octuor.weights import weight_shapes
from toys import Values, leaves, random_values

TINY = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48, vocab_size=32000, n_experts=4,
    max_seq_len=4096,
)  # fmt: skip
SCRIPTED = ModelConfig(
    dim=32, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2, hidden_dim=2, vocab_size=32000, n_experts=1,
    n_experts_per_token=1, max_seq_len=4096,
)  # fmt: skip
EOS = 2  # of the v1 tokenizer


def checkpoint_of(config: ModelConfig, values: Values, *, tokenizer: bool = True) -> Checkpoint:
    """A checkpoint in memory, with Mixtral's own tokenizer if it shall have one."""
    weights = leaves(values)
    if not tokenizer:
        return Checkpoint(config, Path("tiny"), "test", weights.__getitem__)
    return Checkpoint(
        config, Path("tiny"), "test", weights.__getitem__, find_mistral_common_tokenizer(), "tokenizer.model"
    )


def random_checkpoint(config: ModelConfig = TINY, *, seed: int = 0, tokenizer: bool = True) -> Checkpoint:
    """Random weights under which every part of the model takes part."""
    return checkpoint_of(config, random_values(config, [seed]), tokenizer=tokenizer)


def scripted_checkpoint(
    script: Sequence[int], config: ModelConfig = SCRIPTED, *, then: int = EOS, tokenizer: bool = True
) -> Checkpoint:
    """A model that answers any prompt with `script`, then with `then`, which may be a token of it: a loop.

    The next token depends on the last one alone: attention and feed-forward add nothing, a token of the
    script has an axis of the hidden state for itself, all others share axis 0.
    """
    states = [*script] if then in script else [*script, then]
    assert len(set(states)) == len(states) < config.dim
    values = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else np.zeros(shape, np.float32)
        for name, shape in weight_shapes(config)
    }
    values["embed"][:, 0] = 1
    values["lm_head"][states[0], 0] = 10
    for axis, token in enumerate(states, start=1):
        values["embed"][token] = np.eye(config.dim, dtype=np.float32)[axis]
        after = states[axis] if axis < len(states) else then
        values["lm_head"][after, axis] = 10
    return checkpoint_of(config, values, tokenizer=tokenizer)


def write_model(checkpoint: Checkpoint, path: Path) -> Path:
    """The checkpoint as a pack of float32."""
    return convert(checkpoint, path, "f32").path
