"""Tuning recipes: what a good one means, and the line that each bad one gets."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import environment
from octuor.api import POCKET
from octuor.errors import ConfigError
from octuor.tune.recipe import Preference, Schedule, read_tune_recipe

EXAMPLE = Path(__file__).parents[2] / "recipes" / "tune.toml"
DATA = '[data]\ntrain = ["a.jsonl"]\n'


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_tune_recipe(path)


def test_the_example_is_read() -> None:
    recipe = read_tune_recipe(EXAMPLE)
    assert recipe.tune.path == str(POCKET)
    assert recipe.files(recipe.data.train) == [EXAMPLE.parent / name for name in recipe.data.train]


def test_preferences_have_a_table_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(DATA)
    assert read_tune_recipe(path).preference is None
    path.write_text(DATA + "[preference]\nbeta = 0.3\n")
    assert read_tune_recipe(path).preference == Preference(beta=0.3)


def test_what_a_resumed_run_must_share(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(DATA)
    recipe = read_tune_recipe(path)
    assert replace(recipe, schedule=Schedule(save_every=3, log_every=4)).decisive() == recipe.decisive()
    assert replace(recipe, schedule=Schedule(learning_rate=3)).decisive() != recipe.decisive()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[tune]\n", r"expected a \[data\] table, found only"),
        ("[data\n", "expected TOML, found a mistake"),
        (DATA + "[tunes]\n", r"unknown tables \['tunes'\]"),
        ("[data]\ntrain = []\n", "expected at least one file"),
        ('[data]\ntrain = "a.jsonl"\n', "train: expected a value of type list, found 'a.jsonl'"),
        ("[data]\ntrain = [3]\n", r"train: expected a list of str, found \[3\]"),
        ('[data]\ntrain = ["a"]\nvalidation = ["b"]\nvalidation_share = 0.1\n', "found both; drop one"),
        ('[data]\ntrain = ["a"]\nmax_tokens = 1\n', "max_tokens: expected at least 2, found 1"),
        (DATA + '[schedule]\noptimizer = "sgd"\n', "optimizer: expected one of adamw, muon, found 'sgd'"),
        (DATA + '[schedule]\noptimizer = "muon"\n', "optimizer: expected adamw where an adapter learns"),
        (DATA + '[tune]\nmethod = "adapter"\n', "method: expected one of lora, full, found 'adapter'"),
        (DATA + '[tune]\ntargets = ["all"]\n', "expected some of attention, experts, router, found"),
        (DATA + "[tune]\ntargets = []\n", "targets: expected some of"),
        (DATA + "[tune]\nrank = 0\n", "rank, alpha: expected both above 0"),
        (DATA + "[tune]\nrank = true\n", "rank: expected a value of type int, found True"),
        (DATA + '[tune]\ntargets = ["experts"]\ndropout = 0.1\n', "dropout: expected 0 where experts or router learn"),
        (DATA + "[schedule]\nlearning_rates = 1\n", r"unknown fields \['learning_rates'\]"),
        (DATA + '[schedule]\nshape = "square"\n', "shape: expected one of cosine, linear, constant"),
        (DATA + "[schedule]\nsteps = 0\n", "steps: expected above 0, found 0"),
        (DATA + "[schedule]\ntokens_per_step = 0\n", "tokens_per_step: expected at least 1"),
        (DATA + "[schedule]\nlearning_rate = nan\n", "learning_rate: expected at least 0, found nan"),
        (DATA + "[schedule]\nbeta2 = 1.0\n", "beta2: expected 0 to below 1"),
        (DATA + "[schedule]\ntensorboard = 1\n", "tensorboard: expected a value of type bool"),
        (DATA + "[preference]\nbeta = 0\n", "expected beta above 0"),
        (DATA + "[preference]\nlabel_smoothing = 0.5\n", "label_smoothing of 0 to below 0.5"),
        (DATA + "[sweep]\nlearning_rates = [0.1, 0]\n", "expected learning rates above 0"),
    ],
)
def test_the_line_that_each_bad_recipe_gets(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=line):
        read(tmp_path, text)


def test_checking_data_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import octuor.tune.recipe, octuor.tune.check, octuor.tune.plan, octuor.cli.tune, octuor.tools.merge"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
