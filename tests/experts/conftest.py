"""A pack whose experts differ in format, a model over it that is all in memory, and models with pools of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.pack import write_pack
from octuor.config import ModelConfig
from octuor.experts.budget import Budget, Shape
from octuor.experts.load import load_streamed
from octuor.experts.store import Store
from octuor.ops.native import NativeOps, runs_in_place
from octuor.quant import F32, find_in_packs
from octuor.weights import Weights, weight_shapes
from toys import Toy, random_values

CONFIG = ModelConfig(
    dim=64, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=96, vocab_size=50, n_experts=4, max_seq_len=256
)
FORMATS = ("q4", "f32", "q8", "gguf-q8_0", "bf16", "q3")  # by expert, in turn


@dataclass(frozen=True)
class FixedBudget(Budget):
    """A pool of so many bytes, whatever the process takes."""

    n_bytes: int = 0

    def pool(self, n_tokens: int, held: int) -> int:  # noqa: ARG002
        return self.n_bytes


class StreamedToy(Toy):
    """A toy whose experts are in a store."""

    def __init__(self, ops: NativeOps, checkpoint: Checkpoint, pool: Callable[[Shape], int]) -> None:

        def divide(shape: Shape) -> Budget:
            return FixedBudget(0, shape, 0, 256, 64, pool(shape))

        self.ops, self.config = ops, checkpoint.config
        self.weights: Weights
        self.store: Store
        self.weights, self.store, _ = load_streamed(checkpoint, ops.put, divide, runs_in_place, cache_itemsize=4)


@pytest.fixture(scope="session")
def ops() -> NativeOps:
    return NativeOps(threads=2)


@pytest.fixture(scope="session")
def mixed_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts in five formats: gate, up and down of an expert in one, its neighbour in another."""
    path = tmp_path_factory.mktemp("packs") / "mixed.octuor"
    values = random_values(CONFIG, [7])
    formats = {}
    for name, _ in weight_shapes(CONFIG):
        words = name.split(".")
        is_expert = "experts" in words
        formats[name] = find_in_packs(FORMATS[(int(words[1]) * 3 + int(words[3])) % len(FORMATS)]) if is_expert else F32
    write_pack(path, CONFIG, formats, lambda name: [formats[name].quantize(values[name])])
    return path


@pytest.fixture(scope="session")
def resident(ops: NativeOps, mixed_pack: Path) -> Toy:
    checkpoint = open_checkpoint(mixed_pack)
    return Toy(ops, checkpoint.config, {name: checkpoint.load(name) for name in checkpoint.names})


@pytest.fixture(scope="session")
def ids() -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, CONFIG.vocab_size, 200)
