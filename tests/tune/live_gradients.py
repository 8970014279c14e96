"""Gradients through a base as it is stored are those through its numbers written out; `make test-parity`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tune.bits import nf4

from foreign import blocks, gptq
from octuor.checkpoint import Checkpoint
from octuor.config import ModelConfig
from octuor.ops.native import NativeOps
from octuor.quant import F32, find_format
from octuor.tune.recipe import Method, Schedule
from octuor.tune.student import Student
from octuor.weights import Weight, weight_shapes
from toys import random_values

CONFIG = ModelConfig(
    dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=256, vocab_size=300, n_experts=4,
    rope_theta=1e4, max_seq_len=64,
)  # fmt: skip
SAME = 1e-5  # of the largest: the same float32 sums, cut between rows
EACH = ("attention", "experts", "router")
METHOD = Method(targets=EACH, rank=4, alpha=8)


def of_format(name: str) -> Callable[[np.ndarray], Weight]:
    native = NativeOps(threads=1)
    row = find_format(name)
    return lambda x: Weight(native.quantize(x, row), x.shape, row)


def scaled(weight: Weight) -> Weight:
    """Any codes do; numbers that keep activations of order 1 are better."""
    return weight


STORAGES: dict[str, Callable[[np.ndarray], Weight]] = {
    **{name: of_format(name) for name in ("f32", "f16", "bf16", "q8", "q6", "q4", "q3", "q2")},
    "gguf q4_K": lambda x: blocks("q4_k", *x.shape),
    "gguf q6_K": lambda x: blocks("q6_k", *x.shape),
    "gptq 4": lambda x: gptq(4, *x.shape),
    "nf4": nf4,
}


def checkpoint_of(store: Callable[[np.ndarray], Weight]) -> tuple[Checkpoint, Checkpoint]:
    """A model in a storage, and the same numbers as float32."""
    values = random_values(CONFIG, [3])
    stored, plain = {}, {}
    for name, _ in weight_shapes(CONFIG):
        x = values[name]
        keeps = x.ndim == 1 or name.endswith("router") or name == "embed"
        weight = Weight(x, x.shape, F32, name) if keeps else store(x)
        stored[name] = Weight(weight.data, weight.shape, weight.format, name, weight.parts)
        plain[name] = Weight(stored[name].to_f32(), x.shape, F32, name)
    return tuple(Checkpoint(CONFIG, None, "test", found.__getitem__) for found in (stored, plain))  # type: ignore


def student_of(checkpoint: Checkpoint, *, dense: bool) -> Student:
    student = Student(checkpoint, METHOD, Schedule(), torch.float32, NativeOps(threads=1), 0)
    random = torch.Generator().manual_seed(5)
    for name, value in student.learner.masters.items():
        if name.endswith("lora_b"):
            value.copy_(torch.randn(value.shape, generator=random) * 0.02)
    student.learner.refresh()
    return student
