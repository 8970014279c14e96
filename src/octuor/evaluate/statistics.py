"""How sure a figure is: intervals at 95 %, paired tests, pass@k. Plain functions of numbers, the same for a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb, exp, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from octuor.evaluate.result import Document, Form, Metric

Z = 1.959963984540054  # of 95 % of a normal distribution
RESAMPLES = 2000
AT_ONCE = 1 << 20  # numbers
SEED = 1


def wilson(n_right: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share. Source: Wilson 1927, J. Am. Stat. Assoc. 22."""
    share = n_right / n
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (0.0 if n_right == 0 else middle - half), (1.0 if n_right == n else middle + half)


def resampled_means(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means of RESAMPLES draws of as many documents, with repetition: [RESAMPLES]."""
    rng = np.random.default_rng(SEED)
    n = len(scores)
    parts = []
    n_left = RESAMPLES
    while n_left:
        drawn = rng.integers(0, n, (min(n_left, max(1, AT_ONCE // n)), n))
        parts.append((scores * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
        n_left -= len(drawn)
    return np.concatenate(parts)


def make_metric(
    name: str,
    documents: Sequence[Document],
    *,
    form: Form = "mean",
    higher_is_better: bool | None = True,
    can_be_share: bool = True,
) -> Metric:
    """The figure that these documents' scores of that name give, with its interval; documents without one are left out.

    Shares of documents that are right or wrong get Wilson's interval, all others the bootstrap's. can_be_share False:
    the scores are no rights and wrongs, though all of them may happen to be 0 or 1.
    Raises ValueError where no document has that score.
    """
    kept = [document for document in documents if name in document.scores]
    if not kept:
        raise ValueError(f"no document has the score {name!r}")
    scores = np.array([document.scores[name] for document in kept], dtype=np.float64)
    weights = np.array([document.weights.get(name, 1.0) for document in kept], dtype=np.float64)
    last: Callable[[float], float] = (lambda x: exp(min(x, 700.0))) if form == "exp" else float
    value = last(float(np.average(scores, weights=weights)))
    if can_be_share and form == "mean" and np.isin(scores, (0.0, 1.0)).all() and (weights == 1).all():
        low, high = wilson(float(scores.sum()), len(scores))
        return Metric(name, value, low, high, len(kept), form, higher_is_better, "Wilson")
    if len(kept) < 2:
        return Metric(name, value, None, None, len(kept), form, higher_is_better)
    low, high = (last(float(x)) for x in np.quantile(resampled_means(scores, weights), (0.025, 0.975)))
    return Metric(name, value, low, high, len(kept), form, higher_is_better, "bootstrap")


def mcnemar(n_gained: int, n_lost: int) -> float:
    """Two-sided p of the exact McNemar test: documents that only the second run, or only the first, got right."""
    n = n_gained + n_lost
    if n == 0:
        return 1.0
    fewer = min(n_gained, n_lost)
    return min(1.0, 2 * float(sum(comb(n, k) for k in range(fewer + 1)) / 2**n))


def paired_bootstrap(differences: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float]:
    """The 95 % interval of the mean difference, and two-sided p that its sign is chance's."""
    means = resampled_means(differences, weights)
    low, high = (float(x) for x in np.quantile(means, (0.025, 0.975)))
    below, above = float((means <= 0).mean()), float((means >= 0).mean())
    return low, high, min(1.0, 2 * max(min(below, above), 1 / RESAMPLES))


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k answers is right, from n of which n_right are.

    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, arXiv:2107.03374, equation 1.
    """
    if n - n_right < k:
        return 1.0
    return 1.0 - prod((1.0 - k / i for i in range(n - n_right + 1, n + 1)), start=1.0)


def mean_and_deviation(values: Mapping[str, float] | Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation; of a mapping's values."""
    x = np.array(list(values.values()) if isinstance(values, Mapping) else list(values), dtype=np.float64)
    return float(x.mean()), float(x.std())
