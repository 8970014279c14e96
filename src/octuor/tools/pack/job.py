"""The whole of `octuor pack`: measure, choose, write, compare, report; each step goes on where a killed process was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octuor.checkpoint.base import Checkpoint
from octuor.checkpoint.files import check_new
from octuor.checkpoint.open import open_checkpoint
from octuor.checkpoint.pack import PackInParts, open_pack
from octuor.errors import RequestError
from octuor.ops.native import NativeOps
from octuor.quant import Format
from octuor.tools.convert import tokenizer_of
from octuor.tools.pack.budget import Budget, choose
from octuor.tools.pack.calibrate import STATE, calibrate
from octuor.tools.pack.compare import compare
from octuor.tools.pack.feedback import STATE as FEEDBACK
from octuor.tools.pack.feedback import write_with_feedback
from octuor.tools.pack.journal import Journal
from octuor.tools.pack.report import Report, make_report, write_report
from octuor.tools.pack.text import Corpus, read_corpus
from octuor.tools.pack.walk import F32Array, Source
from octuor.tools.pack.write import WRITTEN, write_layers

REPORT = "report"  # key of the pack's metadata
MEASURED, PLANNED = "measured", "planned"  # what the journal's contents belong to
PLAN_NAMES = (PLANNED, WRITTEN, FEEDBACK)  # of the journal, where only the plan is another
VERSION = 2  # of what a journal holds and of how it is measured
MEASURING, WRITING, COMPARING = "measuring", "writing", "comparing"
STEPS = (MEASURING, WRITING, COMPARING)
QUALITIES = ("normal", "best")

OnStep = Callable[[str, int, int], None]  # which of the three, work done, work in all
OnNote = Callable[[str], None]  # a line for people: what is gone on with, what starts anew


@dataclass(frozen=True)
class PackResult:
    """What was done; report_files are the ones beside the pack."""

    path: Path
    n_bytes: int
    seconds: float
    report: Report
    report_files: tuple[Path, Path]


def pack(
    source: str | Path | Checkpoint,
    out: Path,
    budget: Callable[[Checkpoint], Budget],
    *,
    calibration: Path | None = None,
    quality: str = "normal",
    threads: int | None = None,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    on_note: OnNote | None = None,
) -> PackResult:
    """Write `source` as the pack of least loss within a budget, with its report card.

    budget       a checkpoint -> what its matrices may take, as bits_budget and memory_budget say it
    calibration  a UTF-8 text to measure on; None: Octuor's own
    quality      "normal": scales are searched by the inputs' importance; "best": rounding errors are fed forward to the
                 weights not yet rounded, too, which takes several times as long
    threads      None: as NativeOps chooses

    A process that is killed leaves `<out>.partial` and the folder `<out>.journal`; the same call goes on from them, and
    ends in the same file. Raises RequestError for a budget that cannot be met, CheckpointError for files.
    """
    began = time.perf_counter()
    if quality not in QUALITIES:
        raise RequestError(f"quality: expected one of {', '.join(QUALITIES)}; found {quality!r}")
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    check_new(out, overwrite=overwrite)
    allowance = budget(checkpoint)
    ops = NativeOps(threads=threads)
    tell, step = on_note or _say_nothing, on_step or _show_nothing
    corpus = read_corpus(checkpoint, calibration)
    origin = Source(checkpoint, ops)
    with Journal(out.with_name(out.name + ".journal")) as journal:
        _begin(journal, MEASURED, measuring_job(checkpoint, corpus), tell)
        found = calibrate(origin, ops, corpus, journal, lambda done, total: step(MEASURING, done, total))
        plan = choose(checkpoint.config, found.losses, allowance)
        job = {"formats": {name: row.name for name, row in plan.formats.items()}, "quality": quality}
        resume = _begin(journal, PLANNED, job, tell, stale=PLAN_NAMES)
        words = tokenizer_of(checkpoint)
        with PackInParts(out, checkpoint.config, plan.formats, words, overwrite=overwrite, resume=resume) as file:
            _write(origin, ops, plan.formats, found.importance, corpus, quality, file, journal, step)
            written = Source(open_pack(file.partial), ops)
            compared = compare(
                origin, written, corpus.held_out, found.held_out, lambda done, total: step(COMPARING, done, total)
            )
            report = make_report(checkpoint, plan, found, compared, corpus, quality)
            file.note({REPORT: json.dumps(report.summary())})
            files = write_report(report, out)
            file.finish()
        journal.remove()
    return PackResult(out, file.n_bytes, time.perf_counter() - began, report, files)


def _write(
    source: Source,
    ops: NativeOps,
    formats: Mapping[str, Format],
    importance: Mapping[str, F32Array],
    corpus: Corpus,
    quality: str,
    file: PackInParts,
    journal: Journal,
    step: OnStep,
) -> None:
    def progress(done: int, total: int) -> None:
        step(WRITING, done, total)

    if quality == "best":
        write_with_feedback(source, ops, formats, importance, corpus.calibration, file, journal, progress)
    else:
        write_layers(source, ops, formats, importance, file, journal, progress)


def measuring_job(checkpoint: Checkpoint, corpus: Corpus) -> dict[str, Any]:
    """What measurements depend on: the source's files as they are now, the tokens, and how it is done."""
    files = []
    for file in checkpoint.files:
        status = file.path.stat()
        files.append([str(file.path.resolve()), status.st_size, status.st_mtime_ns])
    return {"version": VERSION, "source": files, "config": checkpoint.config.to_json(), "text": corpus.digest}


def _begin(journal: Journal, name: str, job: dict[str, Any], tell: OnNote, stale: Sequence[str] | None = None) -> bool:
    """Whether the journal's contents are this job's; those of another are taken away, `stale` names or all."""
    wanted = json.loads(json.dumps(job))
    before = journal.value(name)
    if before == wanted:
        tell(_where(journal, name))
        return True
    if before is not None:
        changed = [key for key in wanted if before.get(key) != wanted[key]]
        tell(f"{name} with another {' and '.join(changed)} before: this step starts anew")
    journal.forget(stale)
    journal.note(name, wanted)
    return False


def _where(journal: Journal, name: str) -> str:
    if name == PLANNED:
        return f"going on with writing after {journal.value(WRITTEN) or 0} parts"
    at = int(journal.arrays(STATE)["at"]) if STATE in journal else 0
    return f"going on with measuring at layer {at}"


def _say_nothing(line: str) -> None:
    pass


def _show_nothing(what: str, done: int, total: int) -> None:
    pass
