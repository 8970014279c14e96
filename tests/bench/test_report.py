"""The figures of a report, from runs whose seconds and costs are given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from octuor.bench.cost import Cost
from octuor.bench.model import BenchModel, random_model
from octuor.bench.profile import PARTS
from octuor.bench.report import report_json
from octuor.bench.rows import Case, Run
from octuor.bench.run import Profile, Result, Row
from octuor.ops.native import NativeOps
from octuor.quant import BF16
from quick_bench import LIMITS
from tiny_models import TINY

LOADS = np.array([[1, 2, 3, 4], [4, 4, 1, 1]])


@pytest.fixture
def model(quick: None) -> BenchModel:  # noqa: ARG001
    return random_model(TINY, "q4", NativeOps(threads=1), n_layers=2)


def result(model: BenchModel) -> Result:
    runs = tuple(Run(seconds, Cost(20e9, 4000e9, LOADS)) for seconds in (4.0, 1.0, 2.0))
    parts = dict.fromkeys(PARTS, 0.0) | {"moe": 6.0, "lm_head": 2.0}
    rows = (Row(Case("prompt", 50), runs, Profile(10.0, parts)), Row(Case("answer", 5, 8), runs, Profile(10.0, parts)))
    return Result(model, rows, (LIMITS, LIMITS), 0.01, None)


def test_rates_are_medians_beside_the_limits(model: BenchModel) -> None:
    report = json.loads(json.dumps(report_json(result(model))))
    prompt, answer = report["rows"]
    assert (prompt["kind"], prompt["tokens"], prompt["batch"]) == ("prompt", 50, 1)
    assert (answer["kind"], answer["tokens"], answer["batch"]) == ("answer", 5, 8)
    rates = [prompt[key] for key in ("tokens_per_s", "tokens_per_s_min", "tokens_per_s_max", "gb_per_s", "gop_per_s")]
    assert rates == [25, 12.5, 50, 10, 2000]
    assert answer["tokens_per_s"] == 20  # of all eight
    assert (prompt["share_of_read"], prompt["share_of_peak"]) == (0.2, 1.0)
    assert report["limits"] == {
        "read_gb_per_s": 50, "int8_gop_per_s": 2000, "f32_gflop_per_s": 500, "bf16_gflop_per_s": None,
    }  # fmt: skip
    assert report["model"]["expert_load"] == {"least": 0.1, "most": 0.4}


def test_what_kernels_do_not_take_is_outside(model: BenchModel) -> None:
    ops = report_json(result(model))["rows"][0]["ops"]
    assert list(ops) == [*PARTS, "outside"]
    assert (ops["moe"], ops["lm_head"]) == (0.6, 0.2)
    assert ops["outside"] == pytest.approx(0.2)


def test_the_full_depth_repeats_layers_alone(model: BenchModel) -> None:
    """Two seconds a run, 0.4 of them the head's; 1.6 of 1 of 2 layers become 3.2."""
    partial = random_model(TINY, "q4", model.ops, n_layers=1)
    rows = [report_json(result(each))["rows"][0] for each in (model, partial)]
    assert rows[0]["full_tokens_per_s"] == rows[0]["tokens_per_s"] == 25
    assert rows[1]["full_tokens_per_s"] == pytest.approx(50 / 3.6)


@pytest.mark.usefixtures("quick")
def test_plain_formats_are_held_against_float_arithmetic() -> None:
    model = random_model(TINY, "bf16", NativeOps(threads=1))
    assert model.formats == (BF16,)
    assert report_json(result(model))["rows"][0]["share_of_peak"] == 4.0
