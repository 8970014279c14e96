"""octuor pack: budgets in words, errors in one line, figures for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import octuor
from octuor.checkpoint import open_checkpoint
from octuor.config import ModelConfig
from octuor.tools.memory_use import memory_use
from octuor.tools.pack import text
from tiny_models import random_checkpoint, write_model

SMALL = ModelConfig(
    dim=256, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=64, hidden_dim=256, vocab_size=320, n_experts=2,
    n_experts_per_token=1, max_seq_len=512,
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text, "RANDOM_PASSAGES", 4)
    monkeypatch.setattr(text, "RANDOM_LENGTH", 16)
    return write_model(random_checkpoint(SMALL, tokenizer=False), tmp_path / "model.octuor")


def test_by_bits(model: Path, tmp_path: Path) -> None:
    done = octuor("pack", model, tmp_path / "x.octuor", "--bits", "4.5")
    assert done.code == 0, done.err
    assert "bits a weight" in done.out
    assert str(tmp_path / "x.octuor.report.html") in done.out


def test_by_memory_as_json(model: Path, tmp_path: Path) -> None:
    done = octuor("pack", model, tmp_path / "x.octuor", "--memory", "70 MiB", "--context", "64", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["bytes"] == (tmp_path / "x.octuor").stat().st_size
    use = memory_use(SMALL, open_checkpoint(tmp_path / "x.octuor").n_bytes, 64)
    assert found["report"]["weight_bytes"] == use.weights
    assert use.total <= 70 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --memory or --bits, found neither"),
        (("--bits", "3", "--memory", "1GB"), "found both"),
        (("--bits", "1"), "bits: expected at least"),
        (("--memory", "1MB"), "memory: expected at least"),
        (("--memory", "much"), "expected an amount"),
        (("--bits", "4", "--quality", "fine"), "expected one of normal, best; found 'fine'"),
        (("--memory", "1GB", "--cache-dtype", "q8"), "expected f16 or f32"),
        (("--bits", "4", "--calibration", "none.txt"), "expected a model with a tokenizer"),
    ],
)
def test_one_line_errors(model: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = octuor("pack", model, tmp_path / "x.octuor", *options)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert message in done.err
    assert not (tmp_path / "x.octuor").exists()


def test_best_quality(model: Path, tmp_path: Path) -> None:
    done = octuor("pack", model, tmp_path / "x.octuor", "--bits", "4.5", "--quality", "best", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["report"]["quality"] == "best"
