"""Parameters, and what the sampler makes of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from octuor.errors import CheckpointError, RequestError, ShapeError
from octuor.logit_filters import FloatArray
from octuor.sampling import Sample, SamplingParams, make_sampler

EOS = 2
N_DRAWS = 4000
# five standard deviations of a frequency over N_DRAWS draws, sqrt(0.25 / 4000) = 0.008; seeds are fixed
FREQUENCY_TOLERANCE = 0.04
LOGPROB_TOLERANCE = 1e-6


def logits(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


def of_probs(*probs: float) -> FloatArray:
    return np.log(np.array(probs, dtype=np.float32))


def draw(
    values: FloatArray, generated: list[int] | None = None, prompt: list[int] | None = None, **params: object
) -> int:
    sampler = make_sampler(SamplingParams(**params), values.size, EOS)  # type: ignore[arg-type]
    return sampler(values, generated or [], prompt or []).id


def frequencies(values: FloatArray, **params: object) -> dict[int, float]:
    """How often each token is drawn over N_DRAWS steps of one reply."""
    sampler = make_sampler(SamplingParams(seed=7, **params), values.size, EOS)  # type: ignore[arg-type]
    counts = Counter(sampler(values, range(step)).id for step in range(N_DRAWS))
    return {token_id: count / N_DRAWS for token_id, count in counts.items()}


def assert_frequencies(found: Mapping[int, float], expected: Mapping[int, float]) -> None:
    assert found.keys() == expected.keys()
    for token_id, frequency in expected.items():
        assert found[token_id] == pytest.approx(frequency, abs=FREQUENCY_TOLERANCE)


# ---- greedy --------------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    assert draw(logits(1, 3, 3, 2), temperature=0) == 1


def test_greedy_needs_no_log_probabilities() -> None:
    assert make_sampler(SamplingParams(temperature=0), 4, EOS)(logits(1, 2, 3, 4)) == Sample(3)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, 0),
        ({"logit_bias": {0: -100}}, 1),
        ({"logit_bias": {3: 100}}, 3),
        ({"repetition_penalty": 2.0}, 1),  # 4 / 2 < 3.5, over prompt and reply
        ({"frequency_penalty": 0.4}, 1),  # 4 - 2 * 0.4 < 3.5, over the reply
        ({"presence_penalty": 0.4}, 0),  # 4 - 0.4 > 3.5
        ({"presence_penalty": 0.6}, 1),
    ],
)
def test_penalties_and_bias_change_the_choice(params: dict[str, object], expected: int) -> None:
    assert draw(logits(4, 3.5, 1, 0), [0, 0], [3], temperature=0, **params) == expected


def test_presence_and_frequency_do_not_look_at_the_prompt() -> None:
    values = logits(4, 3.5, 1, 0)
    assert draw(values, [], [0, 0], temperature=0, presence_penalty=2, frequency_penalty=2) == 0
    assert draw(values, [], [0, 0], temperature=0, repetition_penalty=2) == 1


def test_the_prompt_may_change_between_calls() -> None:
    sampler = make_sampler(SamplingParams(temperature=0, repetition_penalty=2.0), 4, EOS)
    values = logits(4, 3.5, 1, 0)
    assert [sampler(values, [], prompt).id for prompt in ([0], [1], [0], [])] == [1, 0, 1, 0]


def test_the_end_is_forbidden_until_min_tokens() -> None:
    values = logits(1, 0, 9, 8)  # 2 is EOS
    sampler = make_sampler(SamplingParams(temperature=0, min_tokens=2, stop_ids=(3,)), 4, EOS)
    assert [sampler(values, generated).id for generated in ([], [0], [0, 0])] == [0, 0, 2]


# ---- drawing -------------------------------------------------------------------------------------


def test_draws_follow_the_models_distribution() -> None:
    assert_frequencies(frequencies(of_probs(0.5, 0.25, 0.125, 0.125)), {0: 0.5, 1: 0.25, 2: 0.125, 3: 0.125})


def test_draws_follow_the_distribution_that_the_filters_leave() -> None:
    values = of_probs(0.125, 0.25, 0.125, 0.5)
    assert_frequencies(frequencies(values, top_k=2), {1: 1 / 3, 3: 2 / 3})
    assert_frequencies(frequencies(values, top_p=0.6), {1: 1 / 3, 3: 2 / 3})
    assert_frequencies(frequencies(values, min_p=0.4), {1: 1 / 3, 3: 2 / 3})
    # the entropy is 1.21 nats: 0.25 is nearest to it (1.39), then 0.5 (0.69)
    assert_frequencies(frequencies(values, typical_p=0.6), {1: 1 / 3, 3: 2 / 3})
    # filters work on what the ones before them left: of 2/3 and 1/3, top_p 0.6 keeps one
    assert_frequencies(frequencies(values, top_k=2, top_p=0.6), {3: 1.0})


def test_temperature_sharpens_before_the_filters() -> None:
    values = of_probs(0.2, 0.3, 0.3, 0.2)
    squared = {0: 0.04 / 0.26, 1: 0.09 / 0.26, 2: 0.09 / 0.26, 3: 0.04 / 0.26}
    assert_frequencies(frequencies(values, temperature=0.5), squared)
    assert draw(logits(1, 3, 2, 0), temperature=1e-9, seed=1) == 1


def test_an_impossible_token_is_never_drawn() -> None:
    assert_frequencies(frequencies(logits(-np.inf, 0, -np.inf, 0)), {1: 0.5, 3: 0.5})


def test_top_p_of_zero_is_greedy() -> None:
    assert draw(logits(1, 3, 3, 2), top_p=0.0) == 1


# ---- seeds ---------------------------------------------------------------------------------------

UNIFORM = np.zeros(32000, dtype=np.float32)


def ids_of(n_steps: int, *, choice: int = 0, first: int = 0, **params: object) -> list[int]:
    sampler = make_sampler(SamplingParams(**params), UNIFORM.size, EOS, choice=choice)  # type: ignore[arg-type]
    return [sampler(UNIFORM, range(step)).id for step in range(first, n_steps)]


def test_a_seed_repeats_from_any_step() -> None:
    whole = ids_of(8, seed=11)
    assert ids_of(8, seed=11) == whole
    assert ids_of(8, seed=11, first=5) == whole[5:]
    assert len(set(whole)) == 8  # of 32,000: each step has its own number


def test_seeds_and_choices_differ() -> None:
    runs = [ids_of(4, seed=11), ids_of(4, seed=12), ids_of(4, seed=-11), ids_of(4, seed=11, choice=1)]
    assert len({tuple(run) for run in runs}) == 4


def test_draws_of_a_seed_do_not_change_between_versions() -> None:
    assert ids_of(4, seed=11) == [4064, 18586, 536, 3800]  # recorded with numpy 2.3.5


def test_without_a_seed_each_sampler_draws_its_own() -> None:
    samplers = [make_sampler(SamplingParams(), UNIFORM.size, EOS) for _ in range(2)]
    assert samplers[0].seed != samplers[1].seed
    again = make_sampler(SamplingParams(seed=samplers[0].seed), UNIFORM.size, EOS)
    assert again(UNIFORM) == samplers[0](UNIFORM)


# ---- log-probabilities ---------------------------------------------------------------------------


def test_logprobs_are_the_models_own_whatever_the_parameters() -> None:
    values = of_probs(0.5, 0.25, 0.125, 0.125)
    params = SamplingParams(seed=1, logprobs=3, temperature=0.1, top_k=1, logit_bias={3: 100}, repetition_penalty=2.0)
    sample = make_sampler(params, 4, EOS)(values, [0], [1])
    assert sample.id == 3
    assert sample.logprob == pytest.approx(np.log(0.125), abs=LOGPROB_TOLERANCE)
    assert [token_id for token_id, _ in sample.top] == [0, 1, 2]  # of equals the lowest id
    assert [logprob for _, logprob in sample.top] == pytest.approx(np.log([0.5, 0.25, 0.125]), abs=LOGPROB_TOLERANCE)


@pytest.mark.parametrize(("n_top", "top_ids"), [(0, ()), (1, (3,)), (4, (3, 1, 0, 2))])
def test_number_of_alternatives(n_top: int, top_ids: tuple[int, ...]) -> None:
    sample = make_sampler(SamplingParams(temperature=0, logprobs=n_top), 4, EOS)(logits(1, 2, 1, 3))
    assert sample.logprob is not None
    assert tuple(token_id for token_id, _ in sample.top) == top_ids


# ---- grammars ------------------------------------------------------------------------------------


def test_only_allowed_tokens_are_chosen() -> None:
    allowed = np.array([True, False, True, False])
    sampler = make_sampler(SamplingParams(temperature=0, logprobs=1), 4, EOS)
    sample = sampler(of_probs(0.1, 0.4, 0.2, 0.3), allowed=allowed)
    assert sample.id == 2
    assert sample.logprob == pytest.approx(np.log(0.2), abs=LOGPROB_TOLERANCE)
    assert sample.top[0][0] == 1  # the model's own, not the grammar's


def test_a_grammar_that_is_finished_may_end_before_min_tokens() -> None:
    sampler = make_sampler(SamplingParams(temperature=0, min_tokens=5), 4, EOS)
    assert sampler(logits(1, 2, 3, 4), allowed=np.array([False, False, True, False])).id == EOS


def test_a_grammar_that_permits_nothing_is_refused() -> None:
    sampler = make_sampler(SamplingParams(), 4, EOS)
    with pytest.raises(RequestError, match="the grammar permits none"):
        sampler(logits(1, 2, 3, 4), allowed=np.zeros(4, dtype=bool))
    with pytest.raises(ShapeError, match=r"expected \[4\] bool, got \[3\]"):
        sampler(logits(1, 2, 3, 4), allowed=np.ones(3, dtype=bool))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("values", "found"),
    [
        (logits(1, np.nan, 2, 3), "found nan at token 1"),
        (logits(1, 2, np.inf, 3), "found inf at token 2"),
        (logits(-np.inf, -np.inf, -np.inf, -np.inf), "found -inf at token 0"),
    ],
)
def test_broken_logits_say_what_to_do(values: FloatArray, found: str, temperature: float) -> None:
    sampler = make_sampler(SamplingParams(temperature=temperature), 4, EOS)
    with pytest.raises(CheckpointError, match=f"{found}; .* verify the checkpoint"):
        sampler(values)


@pytest.mark.parametrize("values", [np.zeros(5, np.float32), np.zeros((1, 4), np.float32), np.zeros(4, np.float64)])
def test_logits_of_another_shape(values: FloatArray) -> None:
    with pytest.raises(ShapeError, match=r"logits: expected \[4\] float32"):
        make_sampler(SamplingParams(), 4, EOS)(values)


def test_logits_are_not_changed() -> None:
    values = logits(1, 2, 3, 4)
    values.flags.writeable = False
    everything = SamplingParams(
        seed=1, temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, typical_p=0.9, repetition_penalty=1.2,
        presence_penalty=1, frequency_penalty=1, logit_bias={0: 1}, min_tokens=9, logprobs=2,
    )  # fmt: skip
    assert make_sampler(everything, 4, EOS)(values, [0, 1], [3]).id in {0, 1, 3}


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.7, 2.0], [-0.1, float("nan"), float("inf"), "1", None, True]),
        ("top_k", [0, 1, 10**6], [-1, 1.5, None]),
        ("top_p", [0, 0.5, 1], [-0.1, 1.1, float("nan"), None]),
        ("min_p", [0, 0.5, 1], [-0.1, 1.1]),
        ("typical_p", [0, 0.5, 1], [-0.1, 1.1]),
        ("repetition_penalty", [0.01, 1, 100], [0, -1, 101, float("inf")]),
        ("presence_penalty", [-2, 0, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 0, 2], [-2.1, 2.1]),
        ("logit_bias", [{}, {5: -100}, {5: 100.0}], [{5: 101}, {-1: 0}, {"5": 1}, {5: None}, [1, 2]]),
        ("min_tokens", [0, 5], [-1, 0.5]),
        ("max_tokens", [None, 0, 5], [-1, 0.5]),
        ("seed", [None, 0, -(2**63), 2**64 - 1], [2**64, -(2**63) - 1, 1.0, "1"]),
        ("stop", [(), ("a",), ["a", "b"]], ["a", ("",), (1,)]),
        ("stop_ids", [(), (5,), [5]], [(-1,), ("5",)]),
        ("logprobs", [None, 0, 20], [-1, True]),
    ],
)
def test_each_field_has_its_range(field: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    for value in bad:
        with pytest.raises(RequestError, match=rf"^{field}.*: expected "):
            SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_min_tokens_is_at_most_max_tokens() -> None:
    SamplingParams(min_tokens=3, max_tokens=3)
    with pytest.raises(RequestError, match="min_tokens: expected at most max_tokens = 3, got 4"):
        SamplingParams(min_tokens=4, max_tokens=3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"logit_bias": {4: 1.0}}, "logit_bias: expected token ids below 4, got 4"),
        ({"stop_ids": (1, 9)}, "stop_ids: expected token ids below 4, got 9"),
        ({"logprobs": 5}, "logprobs: expected at most the 4 tokens"),
    ],
)
def test_ids_beyond_the_vocabulary(params: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_sampler(SamplingParams(**params), 4, EOS)  # type: ignore[arg-type]


def test_parameters_are_a_value() -> None:
    bias = {1: 1.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 5.0
    assert params == SamplingParams(logit_bias={1: 1.0})
    with pytest.raises(FrozenInstanceError):
        params.temperature = 0.5  # type: ignore[misc]
