"""Distributions of lengths and arrivals: what is drawn has the shape that was asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from octuor.bench.serve.lengths import Normal, Uniform, arrivals, parse_lengths
from octuor.errors import RequestError

N = 4000


@pytest.mark.parametrize(
    ("text", "found", "shown"),
    [
        ("512", Uniform(512, 512), "512"),
        ("1", Uniform(1, 1), "1"),
        ("64-256", Uniform(64, 256), "64 to 256"),
        ("normal:128:32.5", Normal(128, 32.5), "128 ± 32.5"),
        ("normal:128:0", Normal(128, 0), "128 ± 0"),
    ],
)
def test_spellings(text: str, found: object, shown: str) -> None:
    parsed = parse_lengths("--prompt-tokens", text)
    assert parsed == found
    assert str(parsed) == shown


OTHERS = "|0|-5|a|1-|9-3|0-3|1-2-3|1.5|normal:|normal:3|normal:0:1|normal:5:-1|normal:nan:1|normal:inf:1"


@pytest.mark.parametrize("text", OTHERS.split("|"))
def test_other_spellings_are_errors(text: str) -> None:
    with pytest.raises(RequestError, match=r"--answer-tokens: expected 128, 64-256 .* found "):
        parse_lengths("--answer-tokens", text)


def test_uniform_lengths_meet_both_ends_and_their_mean() -> None:
    rng = np.random.default_rng(0)
    drawn = [Uniform(3, 7).draw(rng) for _ in range(N)]
    assert set(drawn) == {3, 4, 5, 6, 7}
    assert np.mean(drawn) == pytest.approx(5, abs=5 * np.sqrt(2 / N))  # five standard errors
    assert {Uniform(9, 9).draw(rng) for _ in range(20)} == {9}


def test_normal_lengths_have_mean_and_deviation_and_are_at_least_one() -> None:
    rng = np.random.default_rng(0)
    drawn = [Normal(200, 20).draw(rng) for _ in range(N)]
    assert np.mean(drawn) == pytest.approx(200, abs=5 * 20 / np.sqrt(N))
    assert np.std(drawn) == pytest.approx(20, rel=0.1)
    assert min(Normal(2, 5).draw(rng) for _ in range(200)) == 1


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array(list(itertools.islice(arrivals(5.0, np.random.default_rng(0)), N)))
    gaps = np.diff(times, prepend=0.0)
    assert (gaps > 0).all()
    # exponential gaps: mean and deviation are both 1 / rate, and the next does not depend on the last
    assert np.mean(gaps) == pytest.approx(0.2, abs=5 * 0.2 / np.sqrt(N))
    assert np.std(gaps) == pytest.approx(0.2, rel=0.1)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / np.sqrt(N)


def test_a_seed_draws_the_same() -> None:
    first, second, other = (list(itertools.islice(arrivals(1.0, np.random.default_rng(seed)), 5)) for seed in (1, 1, 2))
    assert first == second != other
