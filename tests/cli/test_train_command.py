"""octuor train where it cannot begin; training itself is tested where torch is (tests/train/live_*.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from command_line import octuor

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket-first.toml"


@pytest.mark.parametrize("library", ["torch", "matplotlib"])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr("octuor.cli.train.find_spec", lambda name: None if name == library else sys.__spec__)
    done = octuor("train", RECIPE, "--data", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert f'expected the library {library}, found none; pip install "octuor[train]"' in done.err


def test_a_recipe_that_is_none(tmp_path: Path) -> None:
    done = octuor("train", tmp_path / "none.toml", "--data", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert f"cannot read {tmp_path / 'none.toml'} (No such file or directory)" in done.err
