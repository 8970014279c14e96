"""The table: sizes are those of packs, what fits is what memory holds, speeds follow from measured rates."""

from __future__ import annotations

import pytest

from octuor.config import MISTRAL_7B, MIXTRAL_8X7B
from octuor.errors import RequestError
from octuor.tools.plan.choices import Choice, Limits, check_limits, format_choices, stored_choice
from octuor.tools.plan.disk import DiskSpeed
from octuor.tools.plan.rates import LayerRate, Rates

FAST = LayerRate(answer_s=0.003, prompt_s=0.0001, head_s=0.001)
SLOW = LayerRate(answer_s=0.012, prompt_s=0.0005, head_s=0.004)
RATES = Rates({"bf16": SLOW, "q4": FAST, "q3": FAST}, 50.0, DiskSpeed(10**12, 2.0))


def table(gigabytes: float, batch: int = 1) -> dict[str, Choice]:
    limits = Limits(int(gigabytes * 1e9), 4096, batch)
    return {row.name: row for row in format_choices(MIXTRAL_8X7B, limits, RATES)}


def test_sizes_are_those_that_pages_of_mixtral_print() -> None:
    rows = table(1000)
    assert rows["f32"].use.weights / 1e9 == pytest.approx(186.8, abs=0.1)
    assert rows["f16"].use.weights / 1e9 == pytest.approx(93.4, abs=0.1)
    assert rows["q8"].use.weights / 1e9 == pytest.approx(47.1, abs=0.1)
    assert rows["q4"].use.weights / 1e9 == pytest.approx(25.6, abs=0.1)
    assert {row.how for row in rows.values()} == {"resident"}
    assert rows["q4"].use.cache == 4096 * 128 * 1024


def test_what_does_not_fit_whole_is_streamed_and_what_cannot_be_streamed_does_not_fit() -> None:
    rows = table(16)
    assert (rows["q2"].how, rows["q4"].how) == ("resident", "streamed")
    assert 0.5 < rows["q4"].resident < 0.65
    assert rows["q4"].resident < rows["q3"].resident < rows["q2"].resident == 1
    assert table(3)["f32"].how == "does not fit"
    assert table(3)["f32"].answer is None


def test_a_dense_model_cannot_be_streamed() -> None:
    rows = format_choices(MISTRAL_7B, Limits(6 * 10**9, 4096), RATES)
    assert {row.how for row in rows} == {"resident", "does not fit"}


def test_speeds_follow_from_rates() -> None:
    rows = table(1000)
    cache_s = 4096 * 128 * 1024 / 2 / 50e9
    assert rows["q4"].answer == pytest.approx(1 / (32 * 0.003 + 0.001 + cache_s))
    assert rows["q4"].prompt == pytest.approx(512 / (512 * 32 * 0.0001 + 0.001))
    assert rows["q8"].answer is None  # not measured
    assert rows["f32"].answer == pytest.approx(1 / (2 * (32 * 0.012 + 0.004) + cache_s))


def test_streaming_costs_what_the_disk_takes() -> None:
    whole, half = table(1000)["q4"], table(16)["q4"]
    assert whole.answer is not None
    assert half.answer is not None
    met = MIXTRAL_8X7B.n_experts_per_token / MIXTRAL_8X7B.n_experts * 24.67e9
    assert 1 / half.answer - 1 / whole.answer == pytest.approx((1 - half.resident) * met / 2e9, rel=0.02)


def test_a_batch_meets_more_experts_than_a_token() -> None:
    alone, eight = table(1000)["q4"], table(1000, batch=8)["q4"]
    assert alone.answer is not None
    assert eight.answer is not None
    assert alone.answer < eight.answer < 8 * alone.answer
    assert eight.use.cache == 8 * alone.use.cache


def test_a_checkpoint_as_it_is() -> None:
    row = stored_choice(MIXTRAL_8X7B, {"q4": 25 * 10**9, "f32": 10**8}, Limits(30 * 10**9, 4096), RATES)
    assert (row.name, row.how) == ("q4", "resident")
    assert row.use.weights == 251 * 10**8
    assert row.answer == pytest.approx(table(1000)["q4"].answer, rel=1e-6)
    unknown = stored_choice(MIXTRAL_8X7B, {"gguf-q4_k": 26 * 10**9}, Limits(30 * 10**9, 4096), RATES)
    assert (unknown.how, unknown.answer) == ("resident", None)


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(1, 0), "1 to the 32768"), (Limits(1, 40000), "found 40000"), (Limits(1, 1, batch=0), "at least 1")],
)
def test_limits_that_make_no_sense(limits: Limits, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_limits(MIXTRAL_8X7B, limits)
