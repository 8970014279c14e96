"""Recipes: what a good one means, and the line that each bad one gets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from octuor.config import ModelConfig
from octuor.errors import ConfigError, FormatError, OctuorError
from octuor.train.recipe import Export, Recipe, Schedule, Stage, read_recipe

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.toml"
GOOD = """
[model]
dim = 32
n_layers = 2
n_heads = 4
n_kv_heads = 2
head_dim = 8
hidden_dim = 48
vocab_size = 32000

[schedule]
steps = 10
learning_rate = 1

[export]
format = "q4"
overrides = { lm_head = "q8" }

[[stage]]
until = 0.5
weights = { "pretrain/a" = 3, "chat/b" = 0.5 }

[[stage]]
until = 1.0
weights = { "chat/b" = 1 }
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def test_a_whole_recipe(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert recipe.model == ModelConfig(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48, vocab_size=32000
    )
    assert recipe.schedule == Schedule(steps=10, learning_rate=1)
    assert recipe.export == Export("q4", {"lm_head": "q8"})
    assert recipe.stages == (Stage(0.5, {"pretrain/a": 3, "chat/b": 0.5}), Stage(1.0, {"chat/b": 1}))
    assert recipe.sources == ["chat/b", "pretrain/a"]
    assert recipe.schedule.tokens_per_step == 4096


def test_export_may_be_left_out(tmp_path: Path) -> None:
    before, _, rest = GOOD.partition("[export]")
    assert read(tmp_path, before + rest[rest.index("[[stage]]") :]).export == Export("bf16", {})


def test_a_recipe_may_begin_with_a_model(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).start is None
    assert read(tmp_path, f'start = "runs/first"\n{GOOD}').start == "runs/first"


def test_stages_share_the_steps(tmp_path: Path) -> None:
    assert [read(tmp_path, GOOD).stage_at(step) for step in range(10)] == [0] * 5 + [1] * 5
    short = read(tmp_path, GOOD.replace("until = 1.0", "until = 0.8"))
    assert [short.stage_at(step) for step in range(10)] == [0] * 5 + [1] * 5  # the last stage goes on to the end


def test_the_pocket_recipe() -> None:
    recipe = read_recipe(POCKET)
    assert recipe.stages[-1].until == 1.0
    assert recipe.schedule.seq_len <= recipe.model.max_seq_len
    assert not recipe.model.is_dense


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ("[schedule]", "[timetable]", r"expected a \[schedule\] table"),
        ("steps = 10", "", "incomplete .*steps"),
        ("dim = 32", "", "incomplete .*dim"),
        ("steps = 10", "steps = 10\nstep = 9", r"\[schedule\]: unknown fields \['step'\]; known are"),
        ("steps = 10", 'steps = "ten"', r"\[schedule\] steps: expected a value of type int, found 'ten'"),
        ("steps = 10", "steps = 1.5", r"\[schedule\] steps: expected a value of type int, found 1.5"),
        ("steps = 10", "steps = true", "steps: expected a value of type int, found True"),
        ("steps = 10", "steps = 0", "steps: expected at least 1, found 0"),
        ("steps = 10", "steps = 10\nseq_len = 0", "seq_len: expected at least 1"),
        ("learning_rate = 1", "learning_rate = -1", "learning_rate: expected at least 0"),
        ("learning_rate = 1", "learning_rate = nan", "learning_rate: expected at least 0"),
        ("learning_rate = 1", "beta2 = 1.0", "beta2: expected 0 to below 1"),
        ("learning_rate = 1", 'dtype = "f16"', "dtype: expected auto, bf16 or f32, found 'f16'"),
        ("learning_rate = 1", 'optimizer = "sgd"', "optimizer: expected adamw or muon, found 'sgd'"),
        ("learning_rate = 1", "decay_share = 0", "decay_share: expected above 0 to 1, found 0"),
        ("learning_rate = 1", "sampled_words = -1", "sampled_words: expected at least 0, found -1"),
        ("[model]", "start = 3\n[model]", "recipe start: expected the path of a model, found 3"),
        ("dim = 32", "dim = 0", "config.dim: expected a positive int"),
        ("n_kv_heads = 2", "n_kv_heads = 3", "expected a multiple of n_kv_heads"),
        ("until = 0.5", "until = 0", "until: expected a share of the steps up to 1.0, found 0"),
        ("until = 0.5", "until = 1.5", "until: expected a share"),
        ("until = 0.5", "until = 1.0", r"expected until to rise from stage to stage, found \[1.0, 1.0\]"),
        ('"chat/b" = 0.5', '"chat/b" = 0', "expected sources with positive shares"),
        ('"chat/b" = 0.5', '"chat/b" = "much"', "expected sources with positive shares"),
        ('{ "chat/b" = 1 }', "{}", "expected sources with positive shares"),
        ('{ "chat/b" = 1 }', "1", "weights: expected a value of type dict, found 1"),
        ('"q4"', "4", r"\[export\] format: expected a value of type str, found 4"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, good: str, bad: str, says: str) -> None:
    assert GOOD.count(good) == 1
    with pytest.raises(ConfigError, match=says) as caught:
        read(tmp_path, GOOD.replace(good, bad))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("good", "bad"), [('"q4"', '"q7"'), ('lm_head = "q8"', 'lm_head = "q7"')])
def test_a_format_is_refused_before_the_training(tmp_path: Path, good: str, bad: str) -> None:
    with pytest.raises(FormatError, match="found 'q7'"):
        read(tmp_path, GOOD.replace(good, bad))
    with pytest.raises(FormatError, match="found router"):
        read(tmp_path, GOOD.replace("lm_head", "router"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[model", "expected TOML, found a mistake"),
        ("model = 1\nschedule = 1\nstage = []", "expected a table, found 1"),
        ("[model]\n[schedule]\n[stage]\nuntil = 1.0", r"expected \[\[stage\]\] tables in double brackets"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, text)


def test_a_recipe_without_stages(tmp_path: Path) -> None:
    before, _, _ = GOOD.partition("[[stage]]")
    with pytest.raises(ConfigError, match="expected until to rise"):
        read(tmp_path, "stage = []\n" + before)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    for path in (tmp_path, tmp_path / "none.toml", tmp_path / "latin.toml"):
        with pytest.raises(OctuorError, match=path.name):
            read_recipe(path)


def test_shares_that_are_no_numbers() -> None:
    for weight in (math.nan, math.inf, -1.0, 0.0):
        with pytest.raises(ConfigError, match="positive shares"):
            Stage(1.0, {"a": weight})
