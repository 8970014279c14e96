"""What is said of a checkpoint: its parts, and what is unusual about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from octuor.checkpoint import open_checkpoint
from octuor.tools.convert import convert
from octuor.tools.describe import PARTS, describe, oddities
from tiny_models import TINY, random_checkpoint


def test_parts_sum_to_the_whole(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(convert(random_checkpoint(), tmp_path / "a.octuor", "q4").path)
    parts = {part.name: part for part in describe(checkpoint)}
    assert sum(part.n_weights for part in parts.values()) == TINY.n_params
    assert sum(part.n_bytes for part in parts.values()) == checkpoint.n_bytes
    assert list(parts) == list(dict.fromkeys(PARTS.values()))
    assert (set(parts["lm_head"].formats), set(parts["router"].formats)) == ({"q6"}, {"f32"})
    assert oddities(checkpoint) == []


def test_what_is_unusual_is_said(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(replace(TINY, sliding_window=64), tokenizer=False)
    pack = convert(checkpoint, tmp_path / "a.octuor", "bf16", overrides={"gate": "q8", "wq": "q2", "wo": "q2"}).path
    said = " ".join(oddities(replace(open_checkpoint(pack), notes=("it is old",))))
    for words in ("it is old", "no tokenizer", "a sliding window of 64", "several formats (experts gate, up)"):
        assert words in said


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_shared_head_is_said(is_tied: bool) -> None:
    checkpoint = random_checkpoint()
    load = checkpoint.load
    tied = replace(checkpoint, load=lambda name: load("embed" if is_tied and name == "lm_head" else name))
    assert ("lm_head is the embedding" in " ".join(oddities(tied))) == is_tied
