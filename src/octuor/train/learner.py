"""Parameters that learn: float32 masters, their working copies, the optimizer; and files that are written whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from octuor.train.muon import Muon


class Optimization(Protocol):
    """How steps are taken, under a clipped gradient."""

    @property
    def optimizer(self) -> str:
        """ "adamw" (Loshchilov & Hutter 2019, arXiv:1711.05101); or "muon" for the matrices inside the blocks."""

    @property
    def learning_rate(self) -> float:
        """At its peak."""

    @property
    def weight_decay(self) -> float:
        """Of matrices."""

    @property
    def beta1(self) -> float:
        """Of the mean gradient."""

    @property
    def beta2(self) -> float:
        """Of the mean squared gradient."""

    @property
    def clip_norm(self) -> float:
        """The largest norm of a step's whole gradient."""


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_dtype(name: str) -> torch.dtype:
    """ "bf16", "f32", or "auto": bfloat16 where the CPU has it."""
    wants_bf16 = name == "bf16" or (name == "auto" and has_fast_bf16())
    return torch.bfloat16 if wants_bf16 else torch.float32


class Learner:
    """Float32 masters by name, the copies of them that a forward pass reads, made once a step, and the optimizer.

    masters  float32; taken, not copied
    dtype    of the working copies of matrices
    """

    def __init__(self, masters: dict[str, Tensor], how: Optimization, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.masters = masters
        self._how = how
        self.working = {name: self._working_copy(name, master) for name, master in masters.items()}
        self.optimizers = _optimizers(masters, how)

    def step(self, rate_share: float) -> float:
        """Update the parameters from the working copies' gradients at rate_share of the peak learning rate.

        returns  the gradient's norm before clipping
        """
        for name, master in self.masters.items():
            gradient = self.working[name].grad
            master.grad = torch.zeros_like(master) if gradient is None else gradient.float()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self._how.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_share * self._how.learning_rate
            optimizer.step()
        self.refresh()
        return float(norm)

    def refresh(self) -> None:
        """Make the working copies anew from the masters, without gradients."""
        with torch.no_grad():
            for name, master in self.masters.items():
                self.working[name].copy_(master)
                self.working[name].grad = None

    def snapshot(self) -> dict[str, Any]:
        """All that a step depends on, for write_state; views, not copies."""
        return {"masters": self.masters, "optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a snapshot of parameters of the same names and shapes."""
        for name, value in saved["masters"].items():
            self.masters[name].copy_(value)
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.refresh()

    def _working_copy(self, name: str, master: Tensor) -> Tensor:
        # norms, routing and adapters are float32; so is the embedding, whose gradient is a long sum for a common token
        part = name.rpartition(".")[2]
        keep = master.ndim == 1 or part in ("embed", "router", "lora_a", "lora_b")
        return master.to(torch.float32 if keep else self.dtype, copy=True).requires_grad_()


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path` at once or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(dict(values), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _optimizers(masters: dict[str, Tensor], how: Optimization) -> list[torch.optim.Optimizer]:
    """AdamW, which leaves norms undecayed; with "muon" it has only what Muon is not made for."""
    inside = [name for name in masters if how.optimizer == "muon" and _is_inside(name, masters[name])]
    others = [master for name, master in masters.items() if name not in inside]
    matrices = [master for master in others if master.ndim == 2]
    vectors = [master for master in others if master.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((matrices, how.weight_decay), (vectors, 0.0))
        if params
    ]
    made: list[torch.optim.Optimizer] = []
    if groups:
        made.append(torch.optim.AdamW(groups, lr=how.learning_rate, betas=(how.beta1, how.beta2), fused=True))
    if inside:
        made.append(Muon([masters[name] for name in inside], how.learning_rate, how.weight_decay, choose_dtype("auto")))
    return made


def _is_inside(name: str, master: Tensor) -> bool:
    """Whether a parameter is a matrix between hidden states: of attention or of an expert."""
    return master.ndim == 2 and name.rpartition(".")[2] not in ("embed", "lm_head", "router")
