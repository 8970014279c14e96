"""Random packs: valid in every format, and behaving like a model where speed and memory depend on it."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.batch import whole
from octuor.checkpoint import open_checkpoint
from octuor.config import MIXTRAL_8X7B, ModelConfig
from octuor.errors import CheckpointError, ConfigError, FormatError, TokenizerError
from octuor.model import forward, logits
from octuor.ops import LayerRouting
from octuor.ops.reference import ReferenceOps
from octuor.quant import F32, FORMATS
from octuor.tokenizer import find_mistral_common_tokenizer
from octuor.tools.synth import synth
from octuor.weights import Weight

# whole tiles of 64 x 256, so that the pools are used, and deep enough for small leanings to add up
CONFIG = ModelConfig(
    dim=256, n_layers=12, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=256, vocab_size=512, max_seq_len=512
)  # fmt: skip
RAGGED = ModelConfig(
    dim=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, hidden_dim=72, vocab_size=100, n_experts=3
)  # fmt: skip
N_TOKENS = 80
LEAST_SHARE = 0.05  # of tokens that meet an expert: 2 of 8 is 0.25 on average
MOST_CORRELATED = 0.4  # logits of two prompts: 512 independent ones stay under 0.2 with certainty
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("name", ["bf16", "q4"])  # a pool of weights, a pool of tiles
def test_deep_models_keep_tokens_and_experts_apart(tmp_path: Path, name: str) -> None:
    report = synth(tmp_path / "x.octuor", CONFIG, name, seed=1)
    assert report.n_bytes == (tmp_path / "x.octuor").stat().st_size
    ops = ReferenceOps()
    weights = open_checkpoint(tmp_path / "x.octuor").weights(lambda w: Weight(w.to_f32(), w.shape, F32, w.name))
    prompts = np.random.default_rng(5).integers(0, CONFIG.vocab_size, (2, N_TOKENS))
    shares: list[NDArray[np.float64]] = []

    def watch(_: int, routing: LayerRouting) -> None:
        shares.append(np.bincount(routing.experts.ravel(), minlength=CONFIG.n_experts) / len(routing.experts))

    hidden = forward(ops, weights, CONFIG, whole(list(prompts)), watch)
    assert len(shares) == CONFIG.n_layers
    assert np.min(shares) > LEAST_SHARE
    found = logits(ops, weights, hidden)
    ends = found[[N_TOKENS - 2, N_TOKENS - 1, -1]]  # neighbours of one prompt, and the other prompt's end
    correlations = np.corrcoef(ends)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < MOST_CORRELATED
    assert 0.5 < found.std() < 2


@pytest.mark.parametrize("name", FORMATS)
def test_weights_have_zero_mean_and_sane_scale(tmp_path: Path, name: str) -> None:
    synth(tmp_path / "x.octuor", replace(CONFIG, n_layers=1), name)
    checkpoint = open_checkpoint(tmp_path / "x.octuor")
    assert checkpoint.tokenizer is None
    for weight in ("embed", "lm_head", "layers.0.wq", "layers.0.experts.3.down"):
        scale = 1.0 if weight == "embed" else CONFIG.dim**-0.5
        x = checkpoint.get(weight).to_f32()
        assert abs(x.mean()) < 5 * scale / np.sqrt(x.size)  # five standard errors
        assert x.std() == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("name", ["bf16", "q8"])
def test_no_two_rows_or_experts_are_alike(tmp_path: Path, name: str) -> None:
    synth(tmp_path / "x.octuor", replace(CONFIG, n_layers=1, vocab_size=4096), name)
    checkpoint = open_checkpoint(tmp_path / "x.octuor")
    embed = checkpoint.get("embed").to_f32()
    assert len(np.unique(embed, axis=0)) == len(embed)
    parts = [checkpoint.get(f"layers.0.experts.{e}.{part}").to_f32().ravel()
             for e in range(CONFIG.n_experts) for part in ("gate", "up", "down")]  # fmt: skip
    correlations = np.corrcoef(parts) - np.eye(len(parts))
    assert np.abs(correlations).max() < 0.05  # 65,536 independent pairs stay under 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_ragged_shapes_are_padded_with_zeros(tmp_path: Path, name: str) -> None:
    synth(tmp_path / "x.octuor", RAGGED, name)
    weight = open_checkpoint(tmp_path / "x.octuor").get("layers.1.experts.2.gate")
    row = FORMATS[weight.format.name]
    if row.is_tiled:
        padded = row.dequantize(weight.data, (128, 256))
        assert padded[:72, :40].any(axis=1).all()
        assert not padded[72:].any()
        assert not padded[:, 48:].any()  # 40 ends within a group, and not every book of codes has a zero
    assert weight.to_f32().std() == pytest.approx(RAGGED.dim**-0.5, rel=0.1)


def test_the_same_seed_makes_the_same_file(tmp_path: Path) -> None:
    config = replace(CONFIG, n_layers=1)
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        synth(tmp_path / name, config, "q8", seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_layers_overrides_and_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = synth(
        tmp_path / "x.octuor", CONFIG, "q8", n_layers=2, overrides={"embed": "bf16"},
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    checkpoint = open_checkpoint(tmp_path / "x.octuor")
    assert report.config == checkpoint.config == replace(CONFIG, n_layers=2)
    assert checkpoint.get("embed").format.name == "bf16"
    assert seen[-1] == (checkpoint.n_bytes, checkpoint.n_bytes)


def test_the_disk_is_asked_first_about_the_true_geometry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2000, 1000, 1000))
    with pytest.raises(CheckpointError, match=r"expected (\d+) bytes free") as caught:
        synth(tmp_path / "x.octuor", "mixtral-8x7b", "bf16")
    wanted = int(str(caught.value).split("expected ")[1].split()[0])
    assert wanted == pytest.approx(2 * MIXTRAL_8X7B.n_params, rel=1e-3)
    assert not list(tmp_path.iterdir())


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected one of mixtral-8x7b, .* found 'mixtral'"):
        synth(tmp_path / "x.octuor", "mixtral", "q4")
    with pytest.raises(FormatError, match="found 'q7'"):
        synth(tmp_path / "x.octuor", CONFIG, "q7")


def test_a_pack_carries_a_tokenizer(tmp_path: Path) -> None:
    path, roomy = find_mistral_common_tokenizer(), replace(CONFIG, vocab_size=32000)
    synth(tmp_path / "x.octuor", roomy, "q8", tokenizer=path)
    assert open_checkpoint(tmp_path / "x.octuor").tokenizer_bytes() == path.read_bytes()
    with pytest.raises(TokenizerError, match=rf"expected at most the model's {CONFIG.vocab_size} words, found 32000"):
        synth(tmp_path / "y.octuor", CONFIG, "q8", tokenizer=path)
    with pytest.raises(TokenizerError, match="expected a tokenizer's file, found none"):
        synth(tmp_path / "y.octuor", CONFIG, "q8", tokenizer=tmp_path / "none")
    assert not (tmp_path / "y.octuor").exists()
