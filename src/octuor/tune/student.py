"""A model that learns over a base that does not: the trees that forward passes walk, and what steps change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octuor.checkpoint import Checkpoint
from octuor.checkpoint.base import contiguous
from octuor.checkpoint.peft import Site, sites
from octuor.errors import ConfigError
from octuor.ops.native import NativeOps
from octuor.ops.torch_leaves import Adapted, FrozenMatrix
from octuor.train.learner import Learner, Optimization
from octuor.tune.recipe import Method
from octuor.weights import Leaf, Weight, Weights, build, weight_shapes

_PARTS = {"wq": "attention", "wk": "attention", "wv": "attention", "wo": "attention", "router": "router"}


class Student:
    """A checkpoint's weights, some of them learning.

    weights   for steps
    settled   the same without dropout, for validation
    base      as the checkpoint has them: what preferences are measured against. Of method "full" it is the same tree
              as `weights`, so that it has to be asked before the first step
    learner   what steps change: pairs of an adapter, or weights

    Matrices that do not learn stay as they are stored (ops/torch_leaves.py).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        method: Method,
        how: Optimization,
        dtype: torch.dtype,
        native: NativeOps,
        seed: int,
    ) -> None:
        self.config = checkpoint.config
        self.method = method
        self._sites = tuple(sites(self.config, method.targets)) if method.method == "lora" else ()
        if method.method == "lora":
            masters = _new_pairs(self._sites, method, seed)
        else:
            masters = {
                name: torch.from_numpy(np.array(checkpoint.get(name).to_f32(), dtype=np.float32))
                for name, _ in weight_shapes(self.config)
                if "all" in method.targets or _part(name) in method.targets
            }
        if not masters:
            raise ConfigError(f"[tune] targets: expected a part of {checkpoint.source}, found {list(method.targets)}")
        self.learner = Learner(masters, how, dtype)
        own = self.learner.working if method.method == "full" else {}

        def frozen(weight: Weight) -> Leaf:
            if len(weight.shape) == 1 or weight.name.endswith("router"):  # small, and float32 in every pass
                return torch.from_numpy(np.array(weight.to_f32(), dtype=np.float32))
            return FrozenMatrix(weight, native, dtype)

        bases: dict[str, Leaf] = {
            name: own[name] if name in own else frozen(contiguous(checkpoint.get(name)))
            for name, _ in weight_shapes(self.config)
        }
        self.base = build(self.config, bases.__getitem__)
        self.weights = self._adapted(bases, method.dropout)
        self.settled = self._adapted(bases, 0.0) if method.dropout else self.weights

    def pairs(self, masters: Mapping[str, Tensor]) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """An adapter's a and b by site, of masters by name."""
        return {
            site.name: (masters[f"{site.name}.lora_a"].numpy(), masters[f"{site.name}.lora_b"].numpy())
            for site in self._sites
        }

    def _adapted(self, bases: Mapping[str, Leaf], dropout: float) -> Weights:
        leaves = dict(bases)
        scale = self.method.alpha / self.method.rank
        for site in self._sites:
            a, b = (self.learner.working[f"{site.name}.lora_{side}"] for side in "ab")
            share = len(b) // len(site.weights)
            for n, name in enumerate(site.weights):
                leaves[name] = Adapted(bases[name], a, b, scale, slice(n * share, (n + 1) * share), dropout)
        return build(self.config, leaves.__getitem__)


def _part(name: str) -> str | None:
    """What a canonical weight belongs to, in the words of targets."""
    return "experts" if ".experts." in name else _PARTS.get(name.rpartition(".")[2])


def _new_pairs(places: tuple[Site, ...], method: Method, seed: int) -> dict[str, Tensor]:
    """Pairs that change nothing yet: b is zero, a uniform within 1 / sqrt(in), as peft begins."""
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for site in places:
        out, inputs = site.shape
        bound = inputs**-0.5
        a = (2 * torch.rand(method.rank, inputs, generator=random) - 1) * bound
        pairs[f"{site.name}.lora_a"], pairs[f"{site.name}.lora_b"] = a, torch.zeros(out, method.rank)
    return pairs
