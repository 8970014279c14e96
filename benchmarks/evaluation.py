"""lm-evaluation-harness on one checkpoint, through our engine and through its own Hugging Face backend, side by side.

    python benchmarks/evaluation.py CHECKPOINT DATA [--pack PACK] [--limit 40] [--batch 8] > results.md

CHECKPOINT is a Hugging Face folder in float32 (`octuor convert MODEL OUT --to huggingface --format f32`), DATA a folder
with the files that the tasks of src/octuor/evaluate/configs/ name. Wants the extras `eval` and `parity`. Both backends
get the same requests from the same harness; the times are those of their own work, without the harness's.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import octuor
from octuor.evaluate.harness import import_harness, own_configs, read_config
from octuor.evaluate.harness_model import HarnessModel
from octuor.evaluate.setting import Setting
from octuor.evaluate.subject import Subject
from octuor.ops.native import machine_report

TASKS = ("mmlu_local", "choice_local", "blimp_local", "text_local", "translation_local", "gsm8k_local")
QUESTIONS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


@dataclass
class Run:
    """One backend's results of one task, and what its own work took: seconds on the wall, and of all CPUs together."""

    figures: dict[str, float]
    samples: list[dict[str, Any]] = field(repr=False)
    seconds: float
    cpu_s: float


@contextmanager
def timed(model: Any) -> Iterator[list[tuple[float, float]]]:
    """Seconds and CPU seconds of each call of a harness model."""
    seconds: list[tuple[float, float]] = []
    kept = {name: getattr(model, name) for name in QUESTIONS}

    def wrap(ask: Any) -> Any:
        def asked(*args: Any, **kwargs: Any) -> Any:
            began, cpu_began = time.perf_counter(), time.process_time()
            try:
                return ask(*args, **kwargs)
            finally:
                seconds.append((time.perf_counter() - began, time.process_time() - cpu_began))

        return asked

    for name, ask in kept.items():
        setattr(model, name, wrap(ask))
    try:
        yield seconds
    finally:
        for name in kept:
            delattr(model, name)


def run(model: Any, task: str, setting: Setting, folder: Path) -> Run:
    """One task through the harness."""
    harness = import_harness()
    with timed(model) as seconds, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = harness.evaluator.simple_evaluate(
            model=model, tasks=[read_config(own_configs()[task], setting, folder)], limit=setting.limit,
            bootstrap_iters=0,
            task_manager=harness.tasks.TaskManager(include_defaults=False),
        )  # fmt: skip
    figures = {
        key.partition(",")[0]: float(value)
        for key, value in raw["results"][task].items()
        if isinstance(value, float) and "_stderr" not in key
    }
    return Run(
        figures,
        sorted(raw["samples"][task], key=lambda sample: int(sample["doc_id"])),
        *map(sum, zip(*seconds, strict=True)),
    )


def agreement(ours: Run, theirs: Run) -> tuple[int, int, float]:
    """Documents with the same outcome, all documents, and the largest relative difference of a log-likelihood.

    The same outcome: the same chosen continuation and the same greedy flags, the same answer to the letter, or
    log-likelihoods of a whole text within 1e-5.
    """
    same, worst = 0, 0.0
    for a, b in zip(ours.samples, theirs.samples, strict=True):
        found, expected = a["resps"], b["resps"]
        if isinstance(found[0][0], str):
            same += found == expected
            continue
        if isinstance(found[0][0], tuple):
            pairs = [(x[0], y[0]) for x, y in zip(found, expected, strict=True)]
            scores, others = [x[0] for x, _ in pairs], [y[0] for _, y in pairs]
            flags = [x[1] for x, _ in pairs] == [y[1] for _, y in pairs]
            is_same = flags and scores.index(max(scores)) == others.index(max(others))
        else:
            scores, others = [x[0] for x in found], [y[0] for y in expected]
            is_same = all(abs(x - y) <= 1e-5 * abs(y) for x, y in zip(scores, others, strict=True))
        worst = max(worst, *(abs(x - y) / abs(y) for x, y in zip(scores, others, strict=True)))
        same += is_same
    return same, len(ours.samples), worst


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("data", type=Path)
    parser.add_argument("--pack", help="also the figures of this pack")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8, help="of the Hugging Face backend")
    parser.add_argument("--threads", type=int, help="of both; default: what each takes")
    parser.add_argument("--tasks", default=",".join(TASKS))
    given = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    setting = Setting(data=given.data, limit=given.limit)
    import_harness()
    import torch
    from lm_eval.models.huggingface import HFLM

    if given.threads is not None:
        torch.set_num_threads(given.threads)

    theirs = HFLM(pretrained=given.checkpoint, device="cpu", dtype="float32", batch_size=given.batch)
    machine = machine_report()
    n_threads = given.threads or machine["threads"]
    print(f"{machine['cpu']}, {n_threads} threads; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        "\n| task | documents | same outcome | worst log-likelihood | ours, wall and CPU s | theirs | "
        "times faster, wall and CPU | figures, ours / theirs |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        measure(given, setting, theirs, Path(name))


def measure(given: argparse.Namespace, setting: Setting, theirs: Any, folder: Path) -> None:
    """Both backends in turn on each task, then the pack."""
    with Subject(octuor.load(given.checkpoint, threads=given.threads), cache_dtype="f32") as subject:
        ours = HarnessModel(subject)
        for task in given.tasks.split(","):
            a, b = run(ours, task, setting, folder), run(theirs, task, setting, folder)
            same, n, worst = agreement(a, b)
            figures = ", ".join(f"{name} {value:.6g} / {b.figures[name]:.6g}" for name, value in a.figures.items())
            print(
                f"| {task} | {n} | {same} | {worst:.1e} | {a.seconds:.2f}, {a.cpu_s:.2f} | "
                f"{b.seconds:.2f}, {b.cpu_s:.2f} | "
                f"{b.seconds / a.seconds:.1f}, {b.cpu_s / a.cpu_s:.1f} | {figures} |",
                flush=True,
            )
            print(f"{task} done", file=sys.stderr)
        computed, given_tokens = subject.shared_tokens
        print(f"\nTokens that scoring computed: {computed} of {given_tokens} given, the rest shared beginnings.")
    if given.pack is not None:
        print(f"\n| task | figures of {Path(given.pack).name}, as it is | wall and CPU s |")
        print("|---|---|---|")
        with Subject(octuor.load(given.pack, threads=given.threads)) as subject:
            for task in given.tasks.split(","):
                found = run(HarnessModel(subject), task, setting, folder)
                figures = ", ".join(f"{name} {value:.6g}" for name, value in found.figures.items())
                print(f"| {task} | {figures} | {found.seconds:.2f}, {found.cpu_s:.2f} |", flush=True)


if __name__ == "__main__":
    main()
