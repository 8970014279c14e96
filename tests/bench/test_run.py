"""Rows are run in turn, after a warm-up, as the engine runs them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from octuor.bench.model import BenchModel, open_model, random_model
from octuor.bench.rows import ANSWER_START, Case, prepare
from octuor.bench.run import make_cases, run
from octuor.config import MISTRAL_7B, ModelConfig
from octuor.errors import RequestError
from octuor.ops.native import NativeOps
from octuor.tools.synth import synth
from octuor.units import parse_bytes
from quick_bench import LIMITS

CONFIG = ModelConfig(
    dim=40, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, hidden_dim=72, vocab_size=100, n_experts=3,
    max_seq_len=100,
)  # fmt: skip


@pytest.fixture
def model(quick: None) -> BenchModel:  # noqa: ARG001
    return random_model(CONFIG, "q8", NativeOps(threads=1))


def test_cases_are_cut_to_the_context(model: BenchModel) -> None:
    assert make_cases(model, [16, 128, 512], 90, [1, 4]) == (
        Case("prompt", 16), Case("prompt", 100), Case("answer", 84, 1), Case("answer", 84, 4),
    )  # fmt: skip
    assert make_cases(model, [], 2, [1]) == (Case("answer", 2, 1),)
    assert make_cases(model, [3], 0, [1]) == (Case("prompt", 3),)
    tight = replace(model, config=replace(CONFIG, max_seq_len=ANSWER_START))
    assert make_cases(tight, [3], 4, [1]) == (Case("prompt", 3),)


@pytest.mark.parametrize("args", [([], 0, [1]), ([-1], 4, [1]), ([3], 4, [0])])
def test_nothing_to_measure_is_an_error(model: BenchModel, args: tuple[list[int], int, list[int]]) -> None:
    with pytest.raises(RequestError, match="bench: expected"):
        make_cases(model, *args)


def test_kinds_of_rows_take_turns(model: BenchModel) -> None:
    told: list[tuple[str, int, int]] = []
    cases = (Case("prompt", 5), Case("answer", 3, 2))
    result = run(model, cases, repeats=2, on_step=lambda *step: told.append(step))
    turn = ["prompt of 5", "answers, batch 2"]
    assert [what for what, _, _ in told] == [
        *(f"warm-up, {what}" for what in turn), *turn, *turn, *(f"profile, {what}" for what in turn), "done",
    ]  # fmt: skip
    assert [done for _, done, _ in told] == [*range(9)]
    assert {total for _, _, total in told} == {8}
    assert [(row.case, len(row.runs)) for row in result.rows] == [(case, 2) for case in cases]
    assert len(result.limits) == 3
    assert result.first_token_s is None
    for row in result.rows:
        assert all(each.seconds > 0 and each.cost.n_ops > 0 for each in row.runs)
        assert 0 < sum(row.profile.parts.values()) <= row.profile.seconds


def test_a_checkpoint_has_a_first_token(model: BenchModel) -> None:
    result = run(replace(model, is_random=False, load_s=3.0), [Case("prompt", 2)], repeats=1)
    assert result.first_token_s is not None
    assert result.first_token_s > 3


def test_a_prompt_is_read_in_the_engines_chunks(model: BenchModel) -> None:
    model = replace(model, chunk=16)
    found = prepare(model, Case("prompt", 40), np.random.default_rng(0))()
    assert found.cost.loads.sum(axis=1).tolist() == [80, 6]  # the last layer's experts: one token a chunk
    head_and_layers = model.sizes.head + sum(model.sizes.layers)
    assert found.cost.n_bytes > 3 * head_and_layers
    alone = prepare(model, Case("prompt", 16), np.random.default_rng(0))()
    assert alone.cost.n_bytes < 2 * head_and_layers + sum(map(sum, model.sizes.experts))


def test_answers_come_after_a_start_that_does_not_count(model: BenchModel) -> None:
    found = prepare(model, Case("answer", 5, 3), np.random.default_rng(0))()
    assert found.cost.loads.sum(axis=1).tolist() == [2 * 5 * 3] * 2


@pytest.mark.usefixtures("quick")
def test_long_answers_of_a_model_with_a_window() -> None:
    config = replace(CONFIG, n_experts=1, n_experts_per_token=1, sliding_window=32, max_seq_len=MISTRAL_7B.max_seq_len)
    model = random_model(config, "q8", NativeOps(threads=1))
    for case in (Case("answer", 100, 2), Case("prompt", 700)):
        assert prepare(model, case, np.random.default_rng(0))().seconds > 0


@pytest.mark.usefixtures("quick")
def test_experts_are_read_under_a_limit_of_memory(tmp_path: Path) -> None:
    config = replace(CONFIG, n_layers=4, dim=256, hidden_dim=2048, n_experts=8)
    path, ops = tmp_path / "x.octuor", NativeOps(threads=1)
    synth(path, config, "q8", quantize=ops.quantize)
    with pytest.raises(RequestError, match="expected a limit or --resident"):
        open_model(path, ops, resident=True, memory=1 << 33)
    with pytest.raises(RequestError, match="memory: expected at least") as caught:
        open_model(path, ops, memory=1)
    amount = re.search(r"at least ([\d.]+ \w+) for", str(caught.value))
    assert amount is not None
    model = open_model(path, ops, memory=int(parse_bytes(amount[1]) * 1.01) + (12 << 20))  # experts are 50 MB
    result = run(model, make_cases(model, [40], 4, [1, 64]), repeats=1, limits=LIMITS)
    assert [row.case for row in result.rows] == [Case("prompt", 40), Case("answer", 4)]  # 64 have no room
    assert result.limits == (LIMITS,)
    assert result.rows[0].runs[0].read_bytes > 0
