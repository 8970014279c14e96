"""lm-evaluation-harness run over a model of ours, and its figures as ours: from the extra `eval`.

Its own tasks bring their data over the network. Those of configs/ beside this file read files that the user has: each
names its file, which is looked for in the data folder.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, isclose, log
from pathlib import Path
from typing import Any

import numpy as np

from octuor.errors import BackendError, RequestError
from octuor.evaluate.result import Document, Example, Form, Metric, TaskResult
from octuor.evaluate.setting import Setting, read_rows
from octuor.evaluate.statistics import Z, make_metric
from octuor.evaluate.subject import Subject

CONFIGS = Path(__file__).with_name("configs")
EXAMPLES = 3  # of a task that the report shows


def own_configs() -> dict[str, Path]:
    """Task name -> file, of those that read local files."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


@cache
def import_harness() -> Any:
    """The package lm_eval, its progress bars put away. Raises BackendError where it is not installed."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress is shown by us
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # no processes forked beside the engine's threads
    try:
        import datasets
        import lm_eval
        import lm_eval.evaluator
        import lm_eval.tasks
    except ModuleNotFoundError as error:
        raise BackendError(
            f'harness tasks: expected lm-evaluation-harness, found no {error.name}; pip install "octuor[eval]"'
        ) from error
    datasets.disable_progress_bars()
    return lm_eval


def run_harness(subject: Subject, names: Sequence[str], setting: Setting) -> list[TaskResult]:
    """Run tasks of the harness, of configs/ or of setting.tasks_dir, one after the other.

    Raises RequestError on a name that is none of these or a file that is not there, BackendError without the harness.
    """
    harness = import_harness()
    from octuor.evaluate.harness_model import HarnessModel

    model = HarnessModel(subject, seed=setting.seed, tell=setting.tell)
    own = own_configs()
    include = None if setting.tasks_dir is None else str(setting.tasks_dir)
    is_own = all(name in own for name in names)  # reading the harness's own thousands of files takes seconds
    manager = harness.tasks.TaskManager(include_path=include, include_defaults=not is_own)
    found: list[TaskResult] = []
    with tempfile.TemporaryDirectory(prefix="octuor-eval-") as folder:
        for name in names:
            if name not in own and name not in manager.all_tasks:
                raise RequestError(f"task: expected one that `octuor eval --list` names, found {name!r}")
            task = read_config(own[name], setting, Path(folder)) if name in own else name
            found += evaluate(model, task, setting, manager)
    return found


def evaluate(model: Any, task: str | dict[str, Any], setting: Setting, manager: Any) -> list[TaskResult]:
    """One task, or all of a group, with any model of the harness's."""
    harness = import_harness()
    began = time.perf_counter()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that the harness leans on
            raw = harness.evaluator.simple_evaluate(
                model=model, tasks=[task], task_manager=manager, limit=setting.limit, num_fewshot=setting.shots,
                apply_chat_template=setting.chat, log_samples=True, bootstrap_iters=100, random_seed=setting.seed,
                numpy_random_seed=setting.seed, torch_random_seed=setting.seed, fewshot_random_seed=setting.seed,
            )  # fmt: skip
    except OSError as error:  # the Hub's client and the harness's readers of data tell of missing data so
        raise RequestError(
            f"{task if isinstance(task, str) else task['task']}: expected data that the network brings, found none "
            f"({str(error).splitlines()[0]}); try again with a network, or take a task that reads --data"
        ) from error
    seconds = time.perf_counter() - began
    names = list(raw["samples"])
    n_all = sum(len(raw["samples"][name]) for name in names)
    return [
        _result(name, raw, setting, harness.__version__, seconds * len(raw["samples"][name]) / max(n_all, 1))
        for name in names
    ] + [_group(name, raw) for name in raw.get("groups", {})]


def _group(name: str, raw: Mapping[str, Any]) -> TaskResult:
    """The figures of a group as the harness works them out of its tasks'."""
    values, n = raw["groups"][name], raw.get("group_subtasks", {}).get(name, [])
    metrics = []
    for key, value in values.items():
        metric, _, of = key.partition(",")
        error = values.get(f"{metric}_stderr,{of}")
        if isinstance(value, float) and not metric.endswith("_stderr"):
            half = Z * error if isinstance(error, float) else None
            low, high = (None, None) if half is None else (value - half, value + half)
            metrics.append(
                Metric(metric, value, low, high, len(n), "given", None, "" if half is None else "standard error")
            )
    return TaskResult(name, f"A group of {len(n)} tasks of lm-evaluation-harness.", tuple(metrics), ())


def read_config(path: Path, setting: Setting, folder: Path) -> dict[str, Any]:
    """A config of ours over the user's files, whose rows it is given in `folder`, with the columns it names alone.

    The harness's reader of JSON wants the same columns in every row, and its cache is by a file's path and date.
    """
    import yaml

    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    about, files = config["metadata"], config["dataset_kwargs"]["data_files"]
    columns: list[str] = about["columns"]
    known = _examples(about, setting)
    for part, name in files.items():
        file = folder / f"{path.stem}-{part}.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for row in read_rows(setting.file(name), *columns):
                kept = {column: row[column] for column in columns}
                if known is not None:
                    kept["examples"] = known.get(row[about["examples"]["by"]], [])
                out.write(json.dumps(kept) + "\n")
        files[part] = str(file)
    config["dataset_kwargs"]["cache_dir"] = str(folder / "cache")
    return config


def _examples(about: dict[str, Any], setting: Setting) -> dict[str, list[dict[str, Any]]] | None:
    """By subject, what is shown before each question, as the config's `examples` says; None where it says nothing."""
    given = about.get("examples")
    if given is None:
        return None
    about["shots"] = given["shots"] if setting.shots is None else setting.shots
    found: dict[str, list[dict[str, Any]]] = {}
    if about["shots"]:
        for row in read_rows(setting.file(given["file"]), *about["columns"]):
            examples = found.setdefault(row[given["by"]], [])
            if len(examples) < about["shots"]:
                examples.append({column: row[column] for column in about["columns"]})
    return found


def _result(name: str, raw: Mapping[str, Any], setting: Setting, version: str, seconds: float) -> TaskResult:
    samples = _first_filter(raw["samples"][name])
    documents = [Document(str(sample["doc_id"]), {}) for sample in samples]
    metrics: list[Metric] = []
    better = raw.get("higher_is_better", {}).get(name, {})
    for key, value in raw["results"][name].items():
        metric, _, of = key.partition(",")
        if not isinstance(value, int | float) or metric.endswith("_stderr") or metric == "sample_len":
            continue
        chosen = [sample for sample in raw["samples"][name] if sample.get("filter", "none") == of]
        label = metric if of == _filter_of(samples) else f"{metric} ({of})"
        error = raw["results"][name].get(f"{metric}_stderr,{of}")
        documents, found = _metric(label, metric, float(value), error, chosen, documents, better.get(metric))
        metrics.append(found)
    config = raw["configs"].get(name, {})
    return TaskResult(
        name,
        str(config.get("metadata", {}).get("about") or f"lm-evaluation-harness, {config.get('output_type')}"),
        tuple(metrics),
        tuple(documents),
        tuple(_example(sample, documents[n]) for n, sample in enumerate(samples[:EXAMPLES])),
        {
            "harness": version,
            "version": raw.get("versions", {}).get(name),
            "shots": config.get("metadata", {}).get("shots", raw.get("n-shot", {}).get(name)),
            "output_type": config.get("output_type"),
            "doc_to_text": str(config.get("doc_to_text"))[:500],
            "doc_to_target": str(config.get("doc_to_target"))[:500],
            "generation_kwargs": config.get("generation_kwargs"),
            "chat": setting.chat,
        },
        seconds,
    )


def _filter_of(samples: Sequence[Mapping[str, Any]]) -> str:
    return str(samples[0].get("filter", "none")) if samples else "none"


def _first_filter(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One sample a document: a task that reads its answers in several ways has one for each."""
    own = [sample for sample in samples if sample.get("filter", "none") == _filter_of(samples)]
    return sorted(own, key=lambda sample: int(sample["doc_id"]))


def _metric(
    label: str, key: str, value: float, error: object, samples: Sequence[Mapping[str, Any]],
    documents: Sequence[Document], better: bool | None,
) -> tuple[list[Document], Metric]:  # fmt: skip
    """The figure as one of its documents' scores where it is one, and the documents with these."""
    scored = _scores([sample.get(key) for sample in sorted(samples, key=lambda sample: int(sample["doc_id"]))], value)
    if scored is None or len(scored.values) != len(documents):
        half = Z * float(error) if isinstance(error, int | float) else None
        low, high = (None, None) if half is None else (value - half, value + half)
        how = "" if half is None else "standard error"
        return list(documents), Metric(label, value, low, high, len(documents), "given", better, how)
    form, values, weights = scored.form, scored.values, scored.weights
    kept = [
        Document(document.id, {**document.scores, label: x}, {**document.weights, **({} if w == 1 else {label: w})})
        for document, x, w in zip(documents, values, weights, strict=True)
    ]
    return kept, make_metric(label, kept, form=form, higher_is_better=better)


@dataclass(frozen=True)
class _Scored:
    """Scores by document, and what the task's figure is of them."""

    form: Form
    values: Sequence[float]
    weights: Sequence[float]


def _scores(raw: Sequence[Any], value: float) -> _Scored | None:
    """What the harness kept of each document, if the figure is a mean of it or a mean's exponential; else None.

    It keeps a number, or for perplexities a log-likelihood with the words or bytes it is of.
    """

    def fits(x: float) -> bool:
        return isclose(x, value, rel_tol=1e-6, abs_tol=1e-9)

    if not raw:
        return None
    if all(isinstance(x, int | float | np.number) for x in raw):
        values = [float(x) for x in raw]
        mean = float(np.mean(values))
        if fits(mean):
            return _Scored("mean", values, [1.0] * len(values))
        return _Scored("exp", [-x for x in values], [1.0] * len(values)) if fits(exp(min(-mean, 700.0))) else None
    if all(isinstance(x, tuple | list) and len(x) == 2 and isinstance(x[0], float) for x in raw):
        weights = [float(w) for _, w in raw]
        values = [-float(x) / w for (x, _), w in zip(raw, weights, strict=True)]
        mean = float(np.average(values, weights=weights))
        if fits(exp(min(mean, 700.0))):
            return _Scored("exp", values, weights)
        return _Scored("mean", [x / log(2) for x in values], weights) if fits(mean / log(2)) else None
    return None


def _example(sample: Mapping[str, Any], document: Document) -> Example:
    """The prompt and what was said: the answer, or each choice with its log-likelihood."""
    asked = [request for request in sample["arguments"] if request]
    said = sample["filtered_resps"]
    answer = "\n".join(map(str, said))
    if asked and len(asked) == len(said) and len(asked[0]) == 2 and isinstance(asked[0][1], str):
        answer = "\n".join(f"{request[1]!r}: {_logprob(found)}" for request, found in zip(asked, said, strict=True))
    return Example(
        document.id, str(asked[0][0]) if asked else "", answer, str(sample.get("target", "")), document.scores
    )


def _logprob(found: Any) -> str:
    return f"{found[0]:.3f}" if isinstance(found, tuple | list) and isinstance(found[0], float) else str(found)
