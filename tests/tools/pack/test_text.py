"""Texts become passages, some held out; what cannot be read is said in a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octuor.errors import RequestError
from octuor.tools.pack import text
from octuor.tools.pack.text import OWN_TEXT, WINDOW, read_corpus, split
from tiny_models import random_checkpoint

CHECKPOINT = random_checkpoint()  # with Mixtral's tokenizer


def test_our_own_text_is_of_many_kinds() -> None:
    corpus = read_corpus(CHECKPOINT)
    assert 3000 < sum(map(len, corpus.calibration)) < 4000
    assert 800 < sum(map(len, corpus.held_out)) < 1500
    assert all(ids[0] == 1 and len(ids) <= WINDOW for ids in (*corpus.calibration, *corpus.held_out))
    assert corpus.label == "Octuor's own text"
    assert read_corpus(CHECKPOINT).digest == corpus.digest
    assert OWN_TEXT.stat().st_size < 20_000


def test_a_text_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "trade.txt").write_text("The valve closes when the pressure falls. " * 300)
    corpus = read_corpus(CHECKPOINT, tmp_path / "trade.txt")
    assert corpus.label == "trade.txt"
    assert len(corpus.calibration) > len(corpus.held_out) > 0
    assert corpus.digest != read_corpus(CHECKPOINT).digest


def test_a_long_text_is_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_TOKENS", 150)
    monkeypatch.setattr(text, "MAX_HELD_OUT", 50)
    corpus = split([np.full(10, n, dtype=np.int32) for n in range(100)], "x")
    assert sum(map(len, corpus.calibration)) == 150
    assert sum(map(len, corpus.held_out)) == 50
    first = [int(ids[0]) for ids in corpus.calibration]
    assert first == sorted(first)
    assert first[0] == 0
    assert first[-1] > 75
    assert not {int(ids[0]) for ids in corpus.held_out} & set(first)


def test_a_short_text_is_cut_in_quarters() -> None:
    corpus = split([np.arange(100, dtype=np.int32)], "x")
    assert [len(ids) for ids in corpus.calibration] == [25, 25, 25]
    assert [len(ids) for ids in corpus.held_out] == [25]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"too short", "expected a text of 64 tokens"),
        (b"\xff\xfe" * 99, "expected text in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_texts_that_will_not_do(tmp_path: Path, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(RequestError, match=message):
        read_corpus(CHECKPOINT, tmp_path / "x.txt")
