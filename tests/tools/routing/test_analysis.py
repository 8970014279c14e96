"""Counts of domains are those of their texts, routed one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from octuor.api import Model
from octuor.errors import RequestError, TokenizerError
from octuor.ops.native import NativeOps
from octuor.tools.routing.analysis import Analysis, analyse
from octuor.tools.routing.texts import Domain
from tiny_models import SCRIPTED, random_checkpoint
from tools.routing.conftest import DOMAINS, NASTY


def test_domains_are_counted_text_by_text_without_bos(tiny: Model, analysis: Analysis) -> None:
    assert [tally.name for tally in analysis.tallies] == [domain.name for domain in DOMAINS]
    for tally, domain in zip(analysis.tallies, DOMAINS, strict=True):
        routed = [tiny.route(text).experts[1:].astype(np.int64) for text in domain.documents]
        assert tally.n_tokens == sum(map(len, routed))
        assert tally.n_pairs == sum(len(experts) - 1 for experts in routed)
        together = np.concatenate(routed)
        for layer in range(2):
            for choice in range(2):
                expected = np.bincount(together[:, layer, choice], minlength=4)
                np.testing.assert_array_equal(tally.chosen[choice, layer], expected)
            pairs = [pair for part in routed for pair in pairwise(part[:, layer])]
            assert tally.repeated[1, layer] == sum(bool(set(here) & set(after)) for here, after in pairs)


def test_texts_are_shown_with_probabilities(tiny: Model, analysis: Analysis) -> None:
    (block,) = analysis.blocks
    assert block.name == "nasty"
    assert "".join(block.routing.pieces) == NASTY
    assert block.routing.alternatives.ids.shape == (len(block.routing), 5)
    assert block.routing.routes == tiny.route(NASTY).routes


def test_beginnings_of_domains_are_shown_where_there_are_no_texts(tiny: Model) -> None:
    found = analyse(tiny, "tiny", DOMAINS, text_tokens=4)
    assert [block.name for block in found.blocks] == [domain.name for domain in DOMAINS]
    assert [len(block.routing) for block in found.blocks] == [5, 5]


def test_progress_comes_to_its_end(tiny: Model) -> None:
    told: list[tuple[int, int]] = []
    long = Domain("long", ("word " * 300,))
    found = analyse(tiny, "tiny", [long], max_tokens=200, on_tokens=lambda done, total: told.append((done, total)))
    assert found.tallies[0].n_tokens == 200
    assert told[-1][0] == told[-1][1] == found.n_tokens
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_models_that_cannot_be_analysed() -> None:
    dense = Model(random_checkpoint(SCRIPTED), NativeOps(threads=1), context=None, cache_dtype="f16")
    with pytest.raises(RequestError, match="has no router"):
        analyse(dense, "dense", DOMAINS)
    mute = Model(random_checkpoint(tokenizer=False), NativeOps(threads=1), context=None, cache_dtype="f16")
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        analyse(mute, "mute", DOMAINS)
