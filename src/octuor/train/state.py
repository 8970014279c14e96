"""The trainable weights of a run and its optimizers, saved whole so that a killed run goes on as if it had not been.

Parameters are float32 masters; the forward pass reads working copies in the schedule's dtype, made once
a step, and their gradients are widened back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octuor.errors import CheckpointError
from octuor.train.recipe import Recipe, Schedule
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


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class TrainState:
    """Parameters, working copies and the optimizer."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        schedule = recipe.schedule
        wants_bf16 = schedule.dtype == "bf16" or (schedule.dtype == "auto" and has_fast_bf16())
        self.dtype = torch.bfloat16 if wants_bf16 else torch.float32
        self.masters = initial_parameters(recipe)
        self.working = {name: self._working_copy(name, master) for name, master in self.masters.items()}
        self.optimizer = _optimizer(self.masters, schedule)

    @property
    def weights(self) -> Weights:
        """The tree of working copies, for model.forward; gradients gather in its leaves."""
        return build(self.recipe.model, self.working.__getitem__)

    def step(self, rate_share: float) -> float:
        """Update the parameters from the working copies' gradients at rate_share of the peak learning rate.

        returns  the gradient's norm before clipping
        """
        for name, master in self.masters.items():
            gradient = self.working[name].grad
            master.grad = torch.zeros_like(master) if gradient is None else gradient.float()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self.recipe.schedule.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_share * self.recipe.schedule.learning_rate
        self.optimizer.step()
        self._refresh()
        return float(norm)

    def save(self, path: Path, step: int, stream: dict[str, Any]) -> None:
        """Write everything to `path` at once or not at all."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(
                {
                    "step": step,
                    "stream": json.dumps(stream),
                    "masters": self.masters,
                    "optimizer": self.optimizer.state_dict(),
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> tuple[int, dict[str, Any]]:
        """Take everything from `path`; returns the steps done and the stream's state."""
        saved = torch.load(path, weights_only=True)
        shapes = {name: tuple(value.shape) for name, value in saved["masters"].items()}
        if shapes != dict(weight_shapes(self.recipe.model)):
            raise CheckpointError(f"{path}: expected a run of this recipe, found another model; use another --out")
        for name, value in saved["masters"].items():
            self.masters[name].copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])
        self._refresh()
        return saved["step"], json.loads(saved["stream"])

    def _working_copy(self, name: str, master: Tensor) -> Tensor:
        # norms and routing are float32; so is the embedding, whose gradient is a long sum for a common token
        keep = master.ndim == 1 or name == "embed" or name.endswith("router")
        return master.to(torch.float32 if keep else self.dtype, copy=True).requires_grad_()

    def _refresh(self) -> None:
        with torch.no_grad():
            for name, master in self.masters.items():
                self.working[name].copy_(master)
                self.working[name].grad = None


def _optimizer(masters: dict[str, Tensor], schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); norms are not decayed."""
    matrices = [master for master in masters.values() if master.ndim == 2]
    vectors = [master for master in masters.values() if master.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(schedule.beta1, schedule.beta2), fused=True)
