"""Budgets: kept to the byte, with floors, and what is said where none fits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octuor.config import MISTRAL_7B, MIXTRAL_8X7B, MIXTRAL_8X22B, ModelConfig
from octuor.errors import RequestError
from octuor.tools.memory_use import memory_use
from octuor.tools.pack.budget import ATTENTION, Plan, bits_budget, choose, memory_budget, quantized
from octuor.units import parse_bytes
from octuor.weights import weight_shapes

GIB = 1 << 30
SMALL = replace(MIXTRAL_8X7B, n_layers=2)
BITS = {"q2": 2.375, "q3": 3.375, "q4": 4.375, "q5": 5.375, "q6": 6.375, "q8": 8.0625}


def losses(config: ModelConfig) -> dict[str, dict[str, float]]:
    """Alike for all matrices but those of the last layer, which count ten times."""
    found = {}
    for name in quantized(config):
        scale = 10.0 if name.startswith(f"layers.{config.n_layers - 1}.") else 1.0
        rows = list(BITS)[2 if name.rpartition(".")[2] in ATTENTION else 0 :]
        found[name] = {row: scale * 4 ** -BITS[row] for row in rows}
    return found


def weight_bytes(config: ModelConfig, plan: Plan) -> int:
    return sum(plan.formats[name].n_bytes(shape) for name, shape in weight_shapes(config))


@settings(max_examples=20, deadline=None)
@given(st.integers(1100, 4000), st.integers(1, 32768), st.integers(1, 4), st.sampled_from(["f16", "f32"]))
def test_memory_is_kept(mib: int, context: int, batch: int, dtype: str) -> None:
    memory = mib << 20
    try:
        budget = memory_budget(SMALL, memory, context, batch, dtype)
    except RequestError as error:
        found = re.search(r"at least ([\d.]+ GiB)", str(error))
        assert found
        enough = memory_budget(SMALL, parse_bytes(found[1]), context, batch, dtype)  # what it says is true
        assert enough.n_bytes > 0
        assert parse_bytes(found[1]) > memory
        return
    plan = choose(SMALL, losses(SMALL), budget)
    use = memory_use(SMALL, weight_bytes(SMALL, plan), context, batch, dtype)
    assert use.total <= memory


@pytest.mark.parametrize("bits", [2.5, 3.0, 4.2, 6.0, 9.0])
def test_bits_are_kept_and_spent(bits: float) -> None:
    plan = choose(SMALL, losses(SMALL), bits_budget(SMALL, bits))
    assert plan.bits <= bits
    assert plan.bits == pytest.approx(min(bits, 8.0625), abs=0.05)


def test_floors() -> None:
    plan = choose(SMALL, losses(SMALL), bits_budget(SMALL, 2.45))
    for name, row in plan.formats.items():
        part = name.rpartition(".")[2]
        if part in ATTENTION:
            assert row.bits > 4, name
        if part in ("router", "norm", "attention_norm", "moe_norm"):
            assert row.name == "f32", name


def test_what_counts_more_gets_more() -> None:
    plan = choose(SMALL, losses(SMALL), bits_budget(SMALL, 3.5))
    mean = [
        sum(plan.formats[f"layers.{n}.experts.{e}.{part}"].bits for e in range(8) for part in ("gate", "up", "down"))
        for n in range(2)
    ]
    assert mean[1] > mean[0] + 24  # a bit for each matrix


def test_nothing_goes_below_q8_to_pay_for_more_than_q8() -> None:
    wide = {name: rows | {"bf16": rows["q8"] / 2} for name, rows in losses(SMALL).items()}
    plan = choose(SMALL, wide, bits_budget(SMALL, 8.5))
    used = {plan.formats[name].name for name in quantized(SMALL)}
    assert used == {"q8", "bf16"}
    assert plan.bits <= 8.5


def test_what_is_left_over_q8_goes_to_blocks_of_32() -> None:
    rows = {name: row | {"gguf-q8_0": row["q8"] / 2} for name, row in losses(SMALL).items()}
    plan = choose(SMALL, rows, bits_budget(SMALL, 8.3))
    assert {plan.formats[name].name for name in quantized(SMALL)} == {"q8", "gguf-q8_0"}
    assert choose(SMALL, rows, bits_budget(SMALL, 9)).bits == 8.5


def test_bits_that_are_too_few() -> None:
    with pytest.raises(RequestError, match=r"bits: expected at least 2\.\d+ .*attention in q4.*found 2;") as caught:
        bits_budget(MIXTRAL_8X7B, 2.0)
    least = re.search(r"at least ([\d.]+)", str(caught.value))
    assert least
    assert choose(SMALL, losses(SMALL), bits_budget(SMALL, 2.5)).bits > 0
    bits_budget(MIXTRAL_8X7B, float(least[1]))


@pytest.mark.parametrize(
    ("config", "memory", "context", "advice"),
    [
        (MIXTRAL_8X7B, 15 * GIB, 32768, "a context of 8192 fits"),
        (MIXTRAL_8X7B, 8 * GIB, 4096, "stream experts when it runs"),
        (MIXTRAL_8X22B, 16 * GIB, 4096, "stream experts"),
        (MISTRAL_7B, 3 * GIB, 32768, "a context of"),
    ],
)
def test_memory_that_is_too_little(config: ModelConfig, memory: int, context: int, advice: str) -> None:
    with pytest.raises(RequestError, match=rf"memory: expected at least [\d.]+ GiB .*{advice}") as caught:
        memory_budget(config, memory, context)
    if found := re.search(r"a context of (\d+) fits", str(caught.value)):
        memory_budget(config, memory, int(found[1]))


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(RequestError, match="context: expected 1 to the 32768 tokens"):
        memory_budget(MIXTRAL_8X7B, 64 * GIB, 40000)
