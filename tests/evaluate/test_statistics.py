"""Intervals, paired tests and pass@k against values worked out by hand or by simulation."""

from __future__ import annotations

from itertools import combinations
from math import exp

import numpy as np
import pytest

from octuor.evaluate.result import Document
from octuor.evaluate.statistics import make_metric, mcnemar, paired_bootstrap, pass_at_k, wilson


def test_wilsons_interval() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927's formula by hand
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_mcnemar_is_the_sign_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(2, 8) == mcnemar(8, 2)
    assert mcnemar(3, 3) == 1.0


@pytest.mark.parametrize(("n", "n_right", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 0, 2), (4, 4, 1), (5, 3, 3)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, n_right: int, k: int) -> None:
    draws = list(combinations(range(n), k))
    assert pass_at_k(n, n_right, k) == pytest.approx(sum(min(draw) < n_right for draw in draws) / len(draws))


def test_the_bootstrap_covers_a_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, 400)
    documents = [Document(str(n), {"x": value}) for n, value in enumerate(x)]
    metric = make_metric("x", documents)
    assert (metric.how, metric.n) == ("bootstrap", 400)
    assert metric.low is not None
    assert metric.high is not None
    half = 1.96 * 2.0 / 20
    assert metric.low == pytest.approx(x.mean() - half, abs=0.05)
    assert metric.high == pytest.approx(x.mean() + half, abs=0.05)


def test_weights_and_exponentials() -> None:
    documents = [Document("a", {"ppl": 1.0}, {"ppl": 3}), Document("b", {"ppl": 2.0}, {"ppl": 1}), Document("c", {})]
    metric = make_metric("ppl", documents, form="exp", higher_is_better=False)
    assert metric.value == pytest.approx(exp(1.25))
    assert metric.n == 2
    with pytest.raises(ValueError, match="no document"):
        make_metric("other", documents)


def test_scores_that_happen_to_be_noughts_are_no_shares() -> None:
    documents = [Document(str(n), {"x": 0.0}) for n in range(5)]
    assert make_metric("x", documents).how == "Wilson"
    assert make_metric("x", documents, can_be_share=False).how == "bootstrap"


def test_paired_differences() -> None:
    rng = np.random.default_rng(0)
    low, high, p = paired_bootstrap(rng.normal(0.5, 1.0, 200), np.ones(200))
    assert low < 0.5 < high
    assert p < 0.01
    low, high, p = paired_bootstrap(np.tile([1.0, -1.0], 50), np.ones(100))
    assert low < 0 < high
    assert p > 0.5
