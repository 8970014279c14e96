"""A whole evaluation: tasks in turn over one model, answers kept as they come, results written after each task.

A folder holds it: journal.jsonl (what the model said, so that a killed run goes on), result.json, report.html.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from octuor import __version__
from octuor.api import Model
from octuor.checkpoint.files import replacing
from octuor.errors import RequestError
from octuor.evaluate.harness import run_harness
from octuor.evaluate.journal import Journal
from octuor.evaluate.registry import own_tasks
from octuor.evaluate.report_html import report_html
from octuor.evaluate.result import RunResult, TaskResult
from octuor.evaluate.setting import Setting
from octuor.evaluate.subject import Subject
from octuor.ops.native import machine_report
from octuor.tools.describe import describe

RESULT, REPORT, JOURNAL = "result.json", "report.html", "journal.jsonl"
OnTask = Callable[[TaskResult], None]


def evaluate(
    model: Model,
    names: Sequence[str],
    setting: Setting,
    *,
    command: str = "",
    on_task: OnTask | None = None,
) -> RunResult:
    """Run these tasks, ours and the harness's, in their order.

    setting  its `out` is made if it is not there; one with a journal of the same model is gone on with
    command  for the report
    on_task  called with each task's result

    Raises RequestError on an unknown task or data that is not there, CheckpointError where out cannot be written.
    """
    if not names:
        raise RequestError("tasks: expected at least one, found none; `octuor eval --list` names them")
    about, out = model_json(model), setting.out
    began = time.perf_counter()
    own = own_tasks()
    done: list[TaskResult] = []
    result = RunResult(about, _machine(model), {}, ())
    with (
        nullcontext() if out is None else Journal(out / JOURNAL, identity(model, setting.cache_dtype)) as journal,
        Subject(model, journal=journal, cache_dtype=setting.cache_dtype) as subject,
    ):
        for name in dict.fromkeys(names):
            task_began = time.perf_counter()
            if name in own:
                found = [replace(own[name].run(subject, setting), seconds=time.perf_counter() - task_began)]
            else:
                found = run_harness(subject, [name], setting)
            done += found
            result = RunResult(
                about, _machine(model), _run_json(subject, setting, command, time.perf_counter() - began), tuple(done)
            )
            if out is not None:
                write(result, out)
            for task in found:
                if on_task is not None:
                    on_task(task)
    return result


def write(result: RunResult, out: Path) -> None:
    """Put result.json and report.html into a folder, over any that are there."""
    texts = {RESULT: json.dumps(result.as_json(), indent=1), REPORT: report_html(result)}
    for name, text in texts.items():
        data = text.encode("utf-8", "backslashreplace")
        with replacing(out / name, len(data), overwrite=True) as file:
            file.write(data)


def identity(model: Model, cache_dtype: str) -> dict[str, Any]:
    """What answers depend on beside the question: the files as they are now, and how they are run."""
    files = []
    for file in model.checkpoint.files:
        status = file.path.stat()
        files.append([str(file.path.resolve()), status.st_size, status.st_mtime_ns])
    return {
        "version": __version__,
        "files": files,
        "config": model.config.to_json(),
        "context": model.context,
        "cache_dtype": cache_dtype,
    }


def model_json(model: Model) -> Mapping[str, Any]:
    """What a report says of a model."""
    checkpoint, config = model.checkpoint, model.config
    return {
        "name": checkpoint.source.name,
        "source": str(checkpoint.source),
        "kind": checkpoint.kind,
        "params": config.n_params,
        "active_params": config.n_active_params,
        "bytes": checkpoint.n_bytes,
        "bits": 8 * checkpoint.n_bytes / config.n_params,
        "formats": {part.name: "+".join(part.formats) for part in describe(checkpoint)},
        "layers": config.n_layers,
        "experts": config.n_experts,
        "context": model.context,
    }


def _machine(model: Model) -> Mapping[str, Any]:
    found = machine_report()
    return {"cpu": found["cpu"], "isa": getattr(model.ops, "isa", "numpy"), "threads": getattr(model.ops, "threads", 1)}


def _run_json(subject: Subject, setting: Setting, command: str, seconds: float) -> Mapping[str, Any]:
    computed, given = subject.shared_tokens
    return {
        "octuor": __version__,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "seed": setting.seed,
        "limit": setting.limit,
        "chat": setting.chat,
        "cache": setting.cache_dtype,
        "scored": subject.n_scored,
        "answered": subject.n_answered,
        "answer_tokens": subject.n_answer_tokens,
        "from_journal": subject.n_known,
        "tokens_computed": computed,
        "tokens_without_sharing": given,
    }
