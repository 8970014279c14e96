"""The state of a run from a recipe, saved whole so that a killed run goes on as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octuor.errors import CheckpointError
from octuor.train.learner import Learner, choose_dtype, write_state
from octuor.train.recipe import Recipe
from octuor.weights import Weights, build, weight_shapes

INIT_STD = 0.02


def initial_parameters(recipe: Recipe) -> dict[str, Tensor]:
    """Fresh float32 parameters by canonical name; products that end a residual branch start smaller."""
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
