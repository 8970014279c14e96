"""A whole benchmark: limits and rows in turn, so that a drift of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from octuor.bench.limits import Limits, measure_limits
from octuor.bench.load import ForeignLoad
from octuor.bench.model import BenchModel
from octuor.bench.profile import PARTS, TimedOps
from octuor.bench.rows import ANSWER_START, Case, Run, prepare, warm_up
from octuor.errors import RequestError
from octuor.experts.store import Store

FIRST_PROMPT = 16  # tokens
FEWER_ANSWERS = 16  # tokens of an answer that is run for its profile alone
PROFILE_S = 1.0
SETTLED_S = 0.3  # without an expert read: the background is done

OnStep = Callable[[str, int, int], None]  # what comes next, steps done, steps in all


@dataclass(frozen=True)
class Profile:
    """Seconds of runs of a case: in all, and those in kernels by part of the forward pass."""

    seconds: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Row:
    """A case with its repeats and a profile taken apart from them."""

    case: Case
    runs: tuple[Run, ...]
    profile: Profile


@dataclass(frozen=True)
class Result:
    """All that a benchmark found.

    limits         before the first repeat and after each
    foreign_load   share of all CPUs that other work took during the repeats; None: unknown
    first_token_s  from opening a checkpoint to the logits after FIRST_PROMPT tokens; None for random weights
    """

    model: BenchModel
    rows: tuple[Row, ...]
    limits: tuple[Limits, ...]
    foreign_load: float | None
    first_token_s: float | None


def make_cases(model: BenchModel, prompts: Sequence[int], answer: int, batches: Sequence[int]) -> tuple[Case, ...]:
    """Rows for prompts of these lengths and for answers of so many tokens at these batch sizes.

    Lengths are cut to the model's context; under a limit of memory, batches whose positions have no room are left out.
    RequestError on numbers below 1 and where nothing is left.
    """
    for number in (*prompts, *batches):
        if number < 1:
            raise RequestError(f"bench: expected lengths and batch sizes of at least 1, found {number}")
    room = model.room
    cases = [Case("prompt", n) for n in dict.fromkeys(min(n, room) for n in prompts)]
    if answer and room > ANSWER_START:
        cases += [Case("answer", min(answer, room - ANSWER_START), n) for n in dict.fromkeys(batches)]
    if model.store is not None:
        cases = [case for case in cases if case.kind == "prompt" or case.batch * (ANSWER_START + case.tokens) <= room]
    if not cases:
        raise RequestError("bench: expected a prompt or an answer to measure, found none; see --prompt and --answer")
    return tuple(cases)


def run(
    model: BenchModel,
    cases: Sequence[Case],
    *,
    repeats: int,
    seed: int = 0,
    limits: Limits | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Measure every case `repeats` times, one after the other in turn, after a warm-up of each.

    limits   of the machine, known already: measuring them takes memory; None: measured between the repeats
    on_step  called before each step, and when all are done
    """
    rng = np.random.default_rng(seed)
    n_steps, n_done = len(cases) * (repeats + 2), 0

    def tell(what: str) -> None:
        nonlocal n_done
        if on_step is not None:
            on_step(what, n_done, n_steps)
        n_done += 1

    first_token_s = None
    if not model.is_random:
        first = Case("prompt", min(FIRST_PROMPT, model.config.max_seq_len))
        first_token_s = model.load_s + prepare(model, first, rng)().seconds
    if model.page_in is not None:
        if on_step is not None:
            on_step("reading the weights", 0, n_steps)
        model.page_in.wait()
    if model.store is not None:
        settle(model.store)
    for case in cases:
        tell(f"warm-up, {case}")
        warm_up(model, case, rng)
    foreign = ForeignLoad()
    found = [limits or measure_limits(model.ops)]
    runs: dict[Case, list[Run]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            tell(str(case))
            runs[case].append(prepare(model, case, rng)())
        if limits is None:
            found.append(measure_limits(model.ops))
    foreign_load = foreign.share()
    rows = []
    for case in cases:
        tell(f"profile, {case}")
        rows.append(Row(case, tuple(runs[case]), profile(model, case, rng)))
    tell("done")
    return Result(model, tuple(rows), tuple(found), foreign_load, first_token_s)


def settle(store: Store) -> None:
    """Wait until what is read in the background, experts for the memory that is free, has come."""
    before = -1
    while before != (before := store.stats().read_bytes):
        time.sleep(SETTLED_S)


def profile(model: BenchModel, case: Case, rng: np.random.Generator) -> Profile:
    """Where the time of a case goes, summed over runs of its own for PROFILE_S; of answers, first tokens are enough."""
    if case.kind == "answer":
        case = Case("answer", min(case.tokens, FEWER_ANSWERS), case.batch)
    seconds, parts = 0.0, dict.fromkeys(PARTS, 0.0)
    while seconds < PROFILE_S:
        ops = TimedOps(model.ops, model.weights, lambda: model.ops.kernel_seconds)
        start = prepare(model, case, rng, ops)
        before = dict(ops.seconds)
        seconds += start().seconds
        for part in parts:
            parts[part] += ops.seconds[part] - before[part]
    return Profile(seconds, parts)
