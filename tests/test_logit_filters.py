"""Each filter by hand on four elements, and against its definition on others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from octuor.logit_filters import (
    FloatArray,
    bias_logits,
    find_mass,
    forbid,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    log_softmax,
    penalize_presence_and_frequency,
    penalize_repetition,
    scale_temperature,
)

OUT = float("-inf")
HALVES = [0.5, 0.25, 0.125, 0.125]
# float32 keeps 24 bits of each term; a sum of at most 2,000 of them loses a few more
MASS_TOLERANCE = 1e-5
LOGPROB_TOLERANCE = 1e-6  # a few units in the last place of numbers near 1


def logits(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


def of_probs(probs: list[float]) -> FloatArray:
    return np.log(np.array(probs, dtype=np.float32))


def kept(filtered: FloatArray) -> list[int]:
    return [int(index) for index in np.flatnonzero(filtered > OUT)]


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# few different values, so that ties are common; -inf as a grammar leaves it
tied = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0, OUT])
free = st.floats(-20, 20, width=32)
vectors = hnp.arrays(np.float32, st.integers(1, 700), elements=st.one_of(tied, free)).filter(
    lambda vector: bool(vector.max() > OUT)
)


def test_bias_is_added() -> None:
    assert bias_logits(logits(1, 2, 3, 4), ids(3, 0), logits(-100, 1)).tolist() == [2, 2, 3, -96]


def test_repetition_penalty_moves_both_signs_down_and_only_once() -> None:
    assert penalize_repetition(logits(2, -2, 0, 4), ids(0, 1, 1, 0, 2), 2.0).tolist() == [1, -4, 0, 4]


def test_presence_counts_once_and_frequency_each_time() -> None:
    both = penalize_presence_and_frequency(logits(1, 1, 1, 1), ids(2, 0, 2, 2), 0.5, 0.25)
    assert both.tolist() == [0.25, 1, -0.25, 1]


def test_forbidden_tokens_are_out() -> None:
    assert forbid(logits(1, 2, 3, 4), ids(1, 3)).tolist() == [1, OUT, 3, OUT]


def test_temperature_divides_the_distance_from_the_largest() -> None:
    assert scale_temperature(logits(1, 2, 3, OUT), 0.5).tolist() == [-4, -2, 0, OUT]


def test_the_smallest_temperature_stays_finite() -> None:
    with np.errstate(all="raise"):
        scaled = scale_temperature(logits(30, -30, 29, 30), 1e-300)
    assert scaled[[0, 3]].tolist() == [0, 0]
    assert np.exp(scaled[[1, 2]]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_lowest_ids_of_equals(k: int, expected: list[int]) -> None:
    assert kept(keep_top_k(logits(1, 4, 1, 1), k)) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [0]), (0.4, [0]), (0.6, [0, 1]), (0.8, [0, 1, 2]), (0.9, [0, 1, 2, 3]), (0.999, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_p(p: float, expected: list[int]) -> None:
    assert kept(keep_top_p(of_probs(HALVES), p)) == expected


@pytest.mark.parametrize(("p", "expected"), [(1.0, [0]), (0.51, [0]), (0.49, [0, 1]), (0.24, [0, 1, 2, 3])])
def test_min_p_is_relative_to_the_likeliest(p: float, expected: list[int]) -> None:
    assert kept(keep_min_p(of_probs(HALVES), p)) == expected


@pytest.mark.parametrize(("p", "expected"), [(0.0, [1]), (0.2, [1]), (0.4, [0, 1]), (0.95, [0, 1, 2])])
def test_typical_keeps_what_surprises_as_much_as_expected(p: float, expected: list[int]) -> None:
    # entropy 0.898 nats; the surprises 0.511, 1.204 and 2.303 are 0.387, 0.306 and 1.405 away from it
    assert kept(keep_typical(of_probs([0.6, 0.3, 0.1]), p)) == expected


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 2000])
def test_log_softmax_is_the_definition(size: int) -> None:
    values = np.random.default_rng(size).normal(0, 5, size).astype(np.float32)
    wide = values.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    np.testing.assert_allclose(log_softmax(values), expected, rtol=LOGPROB_TOLERANCE, atol=1e-5)


def test_log_softmax_of_impossible_tokens() -> None:
    half = np.log(0.5)
    np.testing.assert_allclose(log_softmax(logits(1, OUT, 1, OUT)), [half, OUT, half, OUT], rtol=LOGPROB_TOLERANCE)


@given(vector=vectors, k=st.integers(1, 700))
def test_top_k_is_the_head_of_the_stable_order(vector: FloatArray, k: int) -> None:
    order = np.argsort(-vector, kind="stable")[:k]
    assert kept(keep_top_k(vector, k)) == sorted(int(i) for i in order if vector[i] > OUT)


@given(vector=vectors, p=st.floats(0, 1, exclude_max=True))
def test_top_p_is_the_shortest_head_of_the_stable_order(vector: FloatArray, p: float) -> None:
    wide = vector.astype(np.float64)
    probs = np.exp(wide - wide.max())
    probs /= probs.sum()
    order = np.argsort(-vector, kind="stable")
    found = kept(keep_top_p(vector, p))
    assert found == sorted(int(i) for i in order[: len(found)])
    assert probs[found].sum() >= p - MASS_TOLERANCE
    assert len(found) == 1 or probs[order[: len(found) - 1]].sum() < p + MASS_TOLERANCE


@given(vector=vectors, p=st.floats(0, 1, exclude_max=True))
def test_typical_is_the_shortest_head_of_its_order(vector: FloatArray, p: float) -> None:
    wide = vector.astype(np.float64)
    logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    probs = np.exp(logprobs)
    entropy = -sum(prob * logprob for prob, logprob in zip(probs, logprobs, strict=True) if prob > 0)
    distance = np.abs(-logprobs - entropy)
    found = kept(keep_typical(vector, p))
    others = np.setdiff1d(np.flatnonzero(vector > OUT), found)
    assert found
    assert others.size == 0 or distance[found].max() <= distance[others].min() + MASS_TOLERANCE * (1 + entropy)
    assert probs[found].sum() >= p - MASS_TOLERANCE


@given(vector=vectors, p=st.floats(0.001, 1), k=st.integers(1, 9))
def test_filters_change_no_input_and_no_kept_logit(vector: FloatArray, p: float, k: int) -> None:
    before = vector.copy()
    for filtered in (
        keep_top_k(vector, k),
        keep_top_p(vector, min(p, 0.99)),
        keep_min_p(vector, p),
        keep_typical(vector, p),
    ):
        assert filtered.dtype == np.float32
        stays = filtered > OUT
        assert stays.any()
        np.testing.assert_array_equal(filtered[stays], vector[stays])
    np.testing.assert_array_equal(vector, before)


@given(
    weights=hnp.arrays(np.float32, st.integers(1, 1500), elements=st.sampled_from([0.0, 1e-30, 0.25, 1.0])),
    fraction=st.floats(0, 1, exclude_min=True),
)
def test_mass_is_found_where_the_running_sum_reaches_it(weights: FloatArray, fraction: float) -> None:
    weights[0] = max(weights[0], 0.25)
    running = np.cumsum(weights.astype(np.float64))
    index = find_mass(weights, fraction)
    assert weights[index] > 0
    assert running[index] >= (fraction - MASS_TOLERANCE) * running[-1]
    assert index == 0 or running[index - 1] <= (fraction + MASS_TOLERANCE) * running[-1]


@pytest.mark.parametrize(("fraction", "index"), [(2.0**-53, 1), (0.25, 1), (0.26, 3), (1.0, 3)])
def test_mass_is_never_found_at_a_zero(fraction: float, index: int) -> None:
    assert find_mass(logits(0, 1, 0, 3, 0), fraction) == index
