"""A whole benchmark: limits and rows in turn, so that a drift of the machine meets all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from octuor.bench.limits import Limits, measure_limits, median_limits
from octuor.bench.model import BenchModel
from octuor.bench.rows import ANSWER_START, Case, Run, run_case, warm_up
from octuor.errors import RequestError
from octuor.ops.native import machine_report

OnStep = Callable[[str, int, int], None]  # what comes next, steps done, steps in all


@dataclass(frozen=True)
class Row:
    """A case with its repeats."""

    case: Case
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Report:
    """All that a benchmark found."""

    model: BenchModel
    rows: tuple[Row, ...]
    limits: tuple[Limits, ...]  # one more than repeats


def make_cases(model: BenchModel, prompts: Sequence[int], answer: int, batches: Sequence[int]) -> tuple[Case, ...]:
    """Rows for prompts of these lengths and for answers at these batch sizes, cut to the model's context."""
    room = model.config.max_seq_len
    if min([*prompts, *batches, 1]) < 1 or answer < 0:
        raise RequestError("lengths and batch sizes: expected positive numbers, found another")
    lengths = dict.fromkeys(min(n, room) for n in prompts)
    cases = [Case("prompt", n) for n in lengths]
    if answer:
        n = min(answer, room - ANSWER_START)
        if n < 1:
            raise RequestError(f"answers: expected a context of more than {ANSWER_START} tokens, found {room}")
        cases += [Case("answer", n, batch) for batch in dict.fromkeys(batches)]
    return tuple(cases)


def run(
    model: BenchModel, cases: Sequence[Case], *, repeats: int, seed: int = 0, on_step: OnStep | None = None
) -> Report:
    """Measure every case `repeats` times, case after case in turn, after a warm-up of each."""
    rng = np.random.default_rng(seed)
    n_steps, done = len(cases) * (repeats + 1), 0

    def tell(what: str) -> None:
        nonlocal done
        if on_step is not None:
            on_step(what, done, n_steps)
        done += 1

    for case in cases:
        tell(f"warm-up, {label(case)}")
        warm_up(model, case, rng)
    limits = [measure_limits(model.ops)]
    runs: dict[Case, list[Run]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            tell(label(case))
            runs[case].append(run_case(model, case, rng))
        limits.append(measure_limits(model.ops))
    tell("done")
    return Report(model, tuple(Row(case, tuple(found)) for case, found in runs.items()), tuple(limits))


def label(case: Case) -> str:
    """What a row is, in words."""
    return f"prompt of {case.tokens}" if case.kind == "prompt" else f"answers, batch {case.batch}"


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values: medians, with the least and the most of tokens a second."""
    model, limits = report.model, median_limits(report.limits)
    machine = machine_report()
    return {
        "machine": {"cpu": machine["cpu"], "isa": model.ops.isa, "threads": model.ops.threads},
        "model": {
            "name": model.name,
            "format": model.format_name,
            "layers": model.config.n_layers,
            "full_layers": model.full_layers,
            "bytes": model.sizes.total,
            "load_s": model.load_s,
        },
        "limits": asdict(limits),
        "rows": [row_json(row, limits) for row in report.rows],
    }


def row_json(row: Row, limits: Limits) -> dict[str, Any]:
    """One row's figures; rates are medians over its repeats."""
    n_tokens = row.case.tokens * row.case.batch
    rates = [n_tokens / run.seconds for run in row.runs]
    gb = median(run.cost.n_bytes / run.seconds / 1e9 for run in row.runs)
    gop = median(run.cost.n_ops / run.seconds / 1e9 for run in row.runs)
    return {
        "kind": row.case.kind,
        "tokens": row.case.tokens,
        "batch": row.case.batch,
        "tokens_per_s": median(rates),
        "tokens_per_s_min": min(rates),
        "tokens_per_s_max": max(rates),
        "gb_per_s": gb,
        "gop_per_s": gop,
        "share_of_read": gb / limits.read_gb_per_s,
    }
