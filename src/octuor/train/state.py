"""The state of a run from a recipe, saved whole so that a killed run goes on as if it had not been."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.errors import CheckpointError, ConfigError
from octuor.train.learner import Learner, choose_dtype, write_state
from octuor.train.recipe import Recipe
from octuor.weights import Weights, build, weight_shapes

INIT_STD = 0.02


def initial_parameters(recipe: Recipe) -> dict[str, Tensor]:
    """Float32 parameters by canonical name: of the recipe's start, or fresh."""
    return _fresh_parameters(recipe) if recipe.start is None else _read_parameters(recipe.start, recipe.model)


def _read_parameters(start: str, config: ModelConfig) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(start)
    found = asdict(checkpoint.config)
    for name, expected in asdict(config).items():
        if found[name] != expected:
            raise ConfigError(f"recipe start: expected a model with {name} {expected}, found {found[name]} in {start}")
    return {
        name: torch.from_numpy(np.array(checkpoint.get(name).to_f32(), dtype=np.float32))
        for name, _ in weight_shapes(config)
    }


def _fresh_parameters(recipe: Recipe) -> dict[str, Tensor]:
    """Products that end a residual branch start smaller."""
    random = torch.Generator().manual_seed(recipe.schedule.seed)
    branch_std = INIT_STD / (2 * recipe.model.n_layers) ** 0.5
    parameters = {}
    for name, shape in weight_shapes(recipe.model):
        if len(shape) == 1:
            parameters[name] = torch.ones(shape)
        else:
            std = branch_std if name.endswith((".wo", ".down")) else INIT_STD
            parameters[name] = torch.randn(shape, generator=random) * std
    return parameters


class TrainState(Learner):
    """All weights of a new model, learning."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        super().__init__(initial_parameters(recipe), recipe.schedule, choose_dtype(recipe.schedule.dtype))

    @property
    def weights(self) -> Weights:
        """The tree of working copies, for model.forward; gradients gather in its leaves."""
        return build(self.recipe.model, self.working.__getitem__)

    def save(self, path: Path, step: int, stream: dict[str, Any]) -> None:
        """Write everything to `path` at once or not at all."""
        write_state(path, {"step": step, "stream": json.dumps(stream), **self.snapshot()})

    def load(self, path: Path) -> tuple[int, dict[str, Any]]:
        """Take everything from `path`; returns the steps done and the stream's state."""
        saved = torch.load(path, weights_only=True)
        shapes = {name: tuple(value.shape) for name, value in saved["masters"].items()}
        if shapes != dict(weight_shapes(self.recipe.model)):
            raise CheckpointError(f"{path}: expected a run of this recipe, found another model; use another --out")
        self.restore(saved)
        return saved["step"], json.loads(saved["stream"])
