"""Random models in memory are those that synth writes; checkpoints are opened as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from octuor.batch import whole
from octuor.bench import memory
from octuor.bench.model import open_model, random_model
from octuor.config import ModelConfig
from octuor.errors import BackendError, ConfigError, FormatError
from octuor.model import forward, logits
from octuor.ops.native import NativeOps
from octuor.tools.convert import choose_formats
from octuor.tools.synth import RandomWeights, synth
from octuor.weights import Weight, weight_shapes
from toys import put_all

CONFIG = ModelConfig(
    dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=256, vocab_size=512, max_seq_len=512
)  # fmt: skip
RAGGED = replace(CONFIG, dim=40, hidden_dim=72, head_dim=12, vocab_size=100, n_experts=3)
OPS = NativeOps(threads=2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["q4", "q8", "bf16", "f32"])
@pytest.mark.parametrize("config", [CONFIG, RAGGED], ids=["whole tiles", "ragged"])
def test_a_random_model_holds_what_was_drawn(config: ModelConfig, name: str) -> None:
    seen: list[tuple[int, int]] = []
    found = random_model(config, name, OPS, seed=3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] >= found.sizes.total
    source, formats, drawn = RandomWeights(config, 3, OPS.quantize), choose_formats(config, name, {}), {}
    for part, shape in weight_shapes(config):
        row = formats[part]
        stored = np.concatenate([piece.reshape(-1) for piece in source.pieces(part, shape, row)])
        drawn[part] = Weight(stored.reshape(row.storage_shape(shape)), shape, row, part)
    batch = whole([range(30)])
    rows = [
        logits(OPS, weights, forward(OPS, weights, config, batch))
        for weights in (found.weights, put_all(OPS, config, drawn))
    ]
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["q4", "bf16"])
def test_a_checkpoint_and_random_weights_are_described_alike(tmp_path: Path, name: str) -> None:
    synth(tmp_path / "x.octuor", CONFIG, name, quantize=OPS.quantize)
    drawn, opened = random_model(CONFIG, name, OPS), open_model(tmp_path / "x.octuor", OPS)
    assert drawn.sizes == opened.sizes
    assert drawn.config == opened.config == CONFIG
    assert (drawn.is_random, opened.is_random) == (True, False)
    assert drawn.formats == opened.formats
    assert drawn.formats[0].name == name


def test_a_checkpoint_runs_mapped_or_resident(tmp_path: Path) -> None:
    synth(tmp_path / "x.octuor", CONFIG, "q4", quantize=OPS.quantize)
    seen: list[tuple[int, int]] = []
    mapped = open_model(tmp_path / "x.octuor", OPS)
    resident = open_model(tmp_path / "x.octuor", OPS, resident=True, progress=lambda *at: seen.append(at))
    assert mapped.page_in is not None
    assert mapped.page_in.wait(60)
    assert resident.page_in is None
    assert seen[-1] == ((tmp_path / "x.octuor").stat().st_size,) * 2
    batch = whole([range(30)])
    rows = [logits(OPS, each.weights, forward(OPS, each.weights, CONFIG, batch)) for each in (mapped, resident)]
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.usefixtures("quick")
def test_layers_and_depth() -> None:
    found = random_model(CONFIG, "q4", OPS, n_layers=1)
    assert (len(found.weights.layers), found.config.n_layers, found.full_layers) == (1, 1, 2)


def test_a_model_that_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 20_000_000_000)
    with pytest.raises(BackendError, match=r"memory: expected 9\d\.\d GB free, found 20.0 GB; use fewer --layers"):
        random_model("mixtral-8x7b", "bf16", OPS)


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="found 'gpt'"):
        random_model("gpt", "q4", OPS)
    with pytest.raises(FormatError, match="found 'q1'"):
        random_model(CONFIG, "q1", OPS)
