"""A walk gives what a forward pass gives, whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest

from octuor import model as forward_pass
from octuor.batch import whole
from octuor.checkpoint import Checkpoint
from octuor.errors import CheckpointError
from octuor.tools.pack import walk as module
from octuor.tools.pack.text import Corpus
from octuor.tools.pack.walk import Source, Walk, log_probabilities
from octuor.weights import Weight
from toys import relative_error

SAME = 1e-5  # experts' sums in another order, through two layers


def run(source: Source, walk: Walk) -> Walk:
    for _ in range(source.config.n_layers):
        walk.step()
    return walk


def test_a_walk_is_a_forward_pass(source: Source, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", 50)  # two sequences, and parts of an expert's tokens
    ops, config = source.ops, source.config
    weights = source.checkpoint.weights(ops.put)
    expected = forward_pass.forward(ops, weights, config, whole(corpus.calibration))
    walk = run(source, Walk.start(source, corpus.calibration))
    found = ops.rms_norm(walk.x, weights.norm, config.norm_eps)
    assert relative_error(found, expected) < SAME
    logits = forward_pass.logits(ops, weights, expected).astype(np.float64)
    expected_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_probabilities(source, walk.x), expected_p, atol=1e-4)


def test_a_branch_walks_as_what_it_copies(source: Source, corpus: Corpus) -> None:
    alone = run(source, Walk.start(source, corpus.calibration))
    walk = Walk.start(source, corpus.calibration)
    walk.step()
    rows = walk.branch([slice(0, 24), slice(24, 34)])  # a whole sequence, and the beginning of one
    run_on = rows.stop - rows.start
    walk.step()
    assert run_on == 34
    np.testing.assert_array_equal(walk.x[: len(alone.x)], alone.x)
    np.testing.assert_array_equal(walk.x[rows], alone.x[:34])


def test_numbers_that_are_not_finite_are_placed(source: Source, corpus: Corpus) -> None:
    def load(name: str) -> Weight:
        weight = source.weight(name)
        data = np.full_like(weight.data, np.inf) if name == "layers.1.experts.0.down" else weight.data
        return Weight(data, weight.shape, weight.format, name)

    broken = Source(Checkpoint(source.config, source.checkpoint.source, "test", load), source.ops)
    walk = Walk.start(broken, corpus.calibration)
    walk.step()
    with np.errstate(all="ignore"), pytest.raises(CheckpointError, match="layer 1: expected finite activations"):
        walk.step()
