"""A model of whole tiles, small enough to be packed in moments, with one expert that no token chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.config import ModelConfig
from octuor.ops.native import NativeOps
from octuor.quant import F32
from octuor.tools.convert import convert
from octuor.tools.pack import text
from octuor.tools.pack.text import Corpus, split
from octuor.tools.pack.walk import Source
from octuor.weights import Weight
from toys import random_values

CONFIG = ModelConfig(
    dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=256, vocab_size=320, n_experts=3,
    n_experts_per_token=1, max_seq_len=512,
)  # fmt: skip
STARVING = (1, 2)  # layer and expert that nobody chooses


@pytest.fixture(autouse=True)
def short_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dozen tokens for models without a tokenizer."""
    monkeypatch.setattr(text, "RANDOM_PASSAGES", 8)
    monkeypatch.setattr(text, "RANDOM_LENGTH", 24)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a pack of float32."""
    values = random_values(CONFIG, [5])
    router = values[f"layers.{STARVING[0]}.router"]
    router[2] = 0  # never above both others, whose logits are opposite
    router[1] = -router[0]
    memory = Checkpoint(CONFIG, Path("toy"), "test", lambda name: Weight(values[name], values[name].shape, F32, name))
    return convert(memory, tmp_path_factory.mktemp("model") / "toy.octuor", "f32").path


@pytest.fixture(scope="session")
def ops() -> NativeOps:
    return NativeOps(threads=2)


@pytest.fixture
def source(model: Path, ops: NativeOps) -> Source:
    return Source(open_checkpoint(model), ops)


@pytest.fixture
def corpus() -> Corpus:
    rng = np.random.default_rng(1)
    return split([rng.integers(0, CONFIG.vocab_size, 24, dtype=np.int32) for _ in range(8)], "random")
