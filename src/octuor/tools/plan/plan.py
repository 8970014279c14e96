"""A whole plan: the subject, the machine, the table, and what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octuor.machine import available_bytes
from octuor.tools.memory_use import memory_use
from octuor.tools.plan.choices import Choice, Limits, check_limits, format_choices, stored_choice
from octuor.tools.plan.rates import OnStep, Rates, measure_rates
from octuor.tools.plan.subject import Subject
from octuor.units import format_bytes

MEASURED = ("bf16", "q8", "q6", "q5", "q4", "q3", "q2")
DEFAULT_CONTEXT = 4096
HEADROOM = 1 << 30  # left to the system where the user names no memory
MUCH_FASTER = 1.3  # times
COMFORTABLE = 4.0  # answer tokens/s: about as fast as one reads
CONTEXTS = (1024, 4096, 8192, 32768)


@dataclass(frozen=True)
class Plan:
    """stored: the checkpoint as it is, None for a geometry; choices: in our formats; advice, command: what to do."""

    subject: Subject
    limits: Limits
    rates: Rates
    stored: Choice | None
    choices: tuple[Choice, ...]
    cache: dict[int, int]
    advice: str
    command: str | None


def make_plan(
    subject: Subject,
    *,
    memory: int | None = None,
    context: int | None = None,
    batch: int = 1,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Plan:
    """Measure this machine and lay out what there is to choose.

    memory   bytes; None: what is free, less a gigabyte
    context  tokens; None: 4,096 or what the model has
    folder   whose disk holds the model; None: the checkpoint's own, else the current one

    Raises RequestError where there is no such context, batch or folder.
    """
    config = subject.config
    context = min(DEFAULT_CONTEXT, config.max_seq_len) if context is None else context
    limits = Limits(max(available_bytes() - HEADROOM, 0) if memory is None else memory, context, batch)
    check_limits(config, limits)
    if folder is None:
        path = subject.stored.path if subject.stored is not None else None
        folder = Path.cwd() if path is None else path if path.is_dir() else path.parent
    rates = measure_rates(config, MEASURED, folder, on_step)
    choices = tuple(format_choices(config, limits, rates))
    stored = None
    if subject.stored is not None:
        stored = stored_choice(config, subject.stored.formats, limits, rates)
    cache = {n: memory_use(config, 0, n, batch=batch).cache for n in CONTEXTS if n <= config.max_seq_len}
    advice, command = recommend(subject, limits, stored, choices)
    return Plan(subject, limits, rates, stored, choices, cache, advice, command)


def recommend(
    subject: Subject, limits: Limits, stored: Choice | None, choices: Sequence[Choice]
) -> tuple[str, str | None]:
    """What to do, and the command for it; None where nothing fits."""
    name, memory = shlex.quote(subject.name), f"--memory {limits.memory >> 20}MiB"
    runs = f"--context {limits.context} {memory}"
    low_bit = [row for row in choices if row.name.startswith("q")]
    if stored is not None and stored.how == "resident":
        text = f"it fits in memory as it is ({format_bytes(stored.use.total)}){_faster(stored, low_bit[0])}"
        return text, f"octuor chat {name} {runs}"
    out = f"{Path(subject.name).name.removesuffix('.octuor') or 'model'}.octuor"
    source = "YOUR-CHECKPOINT" if subject.stored is None else name
    pack = f"octuor pack {source} {shlex.quote(out)} {memory} --context {limits.context}"
    fits = next((row for row in low_bit if row.how == "resident"), None)
    if fits is not None and not (subject.is_pack and stored is not None and stored.bits <= fits.bits):
        return (
            f"pack it to the memory: each expert gets the bits it needs, {fits.name} or more on average, all in memory",
            pack,
        )
    streamed = [row for row in low_bit if row.how == "streamed"]
    if subject.is_pack and stored is not None and stored.how == "streamed":
        return f"stream its experts: {stored.resident:.0%} of them stay in memory", f"octuor chat {name} {runs}"
    if streamed:
        good = next((row for row in streamed if (row.answer or 0) >= COMFORTABLE), None)
        row = good or max(streamed, key=lambda row: row.answer or 0.0)
        convert = (
            f"octuor convert {name if subject.stored else 'YOUR-CHECKPOINT'} {shlex.quote(out)} --format {row.name}"
        )
        return (
            f"no format fits whole; take {row.name} with {row.resident:.0%} of the experts in memory, the rest read as "
            "they are needed",
            f"{convert} && octuor chat {shlex.quote(out)} {runs}",
        )
    least = min(low_bit, key=lambda row: row.use.total)
    needed = least.use.total
    return (
        f"nothing fits: {least.name}, the smallest, takes {format_bytes(needed)}; give more memory or less context",
        None,
    )


def _faster(stored: Choice, other: Choice) -> str:
    """A word on another format, where it would answer much faster."""
    if stored.answer is None or other.answer is None or other.answer < MUCH_FASTER * stored.answer:
        return ""
    ratio = other.answer / stored.answer
    return f"; `octuor convert --format {other.name}` would make it answer {ratio:.1f} times as fast"


def plan_json(plan: Plan) -> dict[str, Any]:
    """The one object that `octuor plan --json` prints; bytes and tokens a second."""
    subject = plan.subject
    return {
        "model": subject.name,
        "kind": "geometry" if subject.stored is None else subject.stored.kind,
        "params": subject.config.n_params,
        "active_params": subject.config.n_active_params,
        "limits": asdict(plan.limits),
        "machine": {
            "read_gb_per_s": plan.rates.read_gb_per_s,
            "disk": None if plan.rates.disk is None else asdict(plan.rates.disk),
        },
        "cache_bytes": {str(n): n_bytes for n, n_bytes in plan.cache.items()},
        "stored": None if plan.stored is None else _row(plan.stored),
        "choices": [_row(row) for row in plan.choices],
        "advice": plan.advice,
        "command": plan.command,
    }


def _row(row: Choice) -> dict[str, Any]:
    return {
        "format": row.name,
        "bits": row.bits,
        "memory": asdict(row.use) | {"total": row.use.total},
        "how": row.how,
        "resident": row.resident,
        "prompt_tokens_per_s": row.prompt,
        "answer_tokens_per_s": row.answer,
        "disk_bytes": row.disk_bytes,
    }
