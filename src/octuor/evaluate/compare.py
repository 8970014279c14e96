"""Two runs document by document: what changed, by how much, and whether it could be chance.

Only documents that both runs have count. Rights and wrongs get McNemar's exact test, other scores the paired bootstrap;
a figure of the whole, such as BLEU, gets neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from octuor.api import Model
from octuor.checkpoint.files import replacing
from octuor.errors import RequestError
from octuor.evaluate.report_html import page, table
from octuor.evaluate.result import Document, Metric, RunResult, TaskResult, read_run
from octuor.evaluate.run import RESULT, evaluate
from octuor.evaluate.setting import Setting
from octuor.evaluate.statistics import mcnemar, paired_bootstrap

SURE = 0.05


@dataclass(frozen=True)
class Pair:
    """One metric of both runs, over the n documents that both have.

    first, second  its values there
    difference     second less first; of a perplexity the ratio less one
    low, high      bounds of the difference's 95 % interval; None: not known
    p              that a difference as large is chance's, two-sided; None: no test
    test           its name
    gained, lost   documents that only the second, or only the first, got right; 0 where scores are no rights
    """

    task: str
    metric: str
    n: int
    first: float
    second: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    test: str = ""
    gained: int = 0
    lost: int = 0
    higher_is_better: bool | None = None

    @property
    def verdict(self) -> str:
        """In a word: "better", "worse", or "" where it could be chance or nobody says which is better."""
        if self.p is None or self.p >= SURE or self.higher_is_better is None or self.difference == 0:
            return ""
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


def evaluations(
    sources: tuple[str, str],
    names: Sequence[str],
    setting: Setting,
    *,
    out: Path | None,
    open_model: Callable[[str], Model],
) -> tuple[RunResult, RunResult]:
    """The run of each source: read where it is a result or its folder, else the model evaluated on these tasks."""
    found: list[RunResult] = []
    for label, source in zip("ab", sources, strict=True):
        path = Path(source)
        path = path / RESULT if (path / RESULT).is_file() else path
        if path.suffix == ".json" and path.is_file():
            found.append(read_result(path))
        else:
            own = replace(setting, out=None if out is None else out / label)
            found.append(evaluate(open_model(source), names, own))
    return found[0], found[1]


def read_result(path: Path) -> RunResult:
    """A result.json of `octuor eval`. Raises RequestError."""
    try:
        return read_run(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: expected a result.json of `octuor eval`, cannot read it ({error})") from error


def compare(a: RunResult, b: RunResult) -> list[Pair]:
    """Every metric that both runs have. Raises RequestError where there is none."""
    others = {task.task: task for task in b.tasks}
    pairs = []
    for task in a.tasks:
        if task.task in others:
            pairs += _task(task, others[task.task])
    if not pairs:
        raise RequestError(
            f"compare: expected tasks that both runs have, found {', '.join(task.task for task in a.tasks)} and "
            f"{', '.join(others)}; evaluate both on the same"
        )
    return pairs


def comparison_json(a: RunResult, b: RunResult, pairs: Sequence[Pair]) -> dict[str, Any]:
    """JSON values."""
    return {
        "first": dict(a.model),
        "second": dict(b.model),
        "pairs": [{**asdict(pair), "verdict": pair.verdict} for pair in pairs],
    }


def comparison_html(a: RunResult, b: RunResult, pairs: Sequence[Pair]) -> str:
    """One page that needs nothing else."""
    rows = [
        (
            pair.task, pair.metric, str(pair.n), f"{pair.first:.4g}", f"{pair.second:.4g}", f"{pair.difference:+.4g}",
            "" if pair.low is None or pair.high is None else f"{pair.low:+.4g} to {pair.high:+.4g}",
            "" if pair.p is None else f"{pair.p:.3g}", pair.test,
            f"{pair.gained} / {pair.lost}" if pair.test == "McNemar" else "", pair.verdict,
        )
        for pair in pairs
    ]  # fmt: skip
    head = ("task", "metric", "documents", a.model["name"], b.model["name"], "difference", "95 %", "p", "test",
            "gained / lost", "")  # fmt: skip
    note = (
        '<p class="note">Over the documents that both runs have. p is the chance of a difference as large if both were '
        f"the same; below {SURE} a word says which way it goes. Of perplexities the difference is the ratio less one. "
        "With twenty metrics one is below 0.05 by chance.</p>"
    )
    title = f"{a.model['name']} and {b.model['name']}"
    return page(title, [f"<p>First: {_what(a)}. Second: {_what(b)}.</p>", table(head, rows, left=(1, 8, 10)), note])


def write_comparison(a: RunResult, b: RunResult, pairs: Sequence[Pair], out: Path) -> None:
    """Put compare.html and compare.json into a folder, over any that are there."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "compare.html": comparison_html(a, b, pairs),
        "compare.json": json.dumps(comparison_json(a, b, pairs), indent=1),
    }
    for name, text in texts.items():
        data = text.encode("utf-8", "backslashreplace")
        with replacing(out / name, len(data), overwrite=True) as file:
            file.write(data)


def _what(run: RunResult) -> str:
    from html import escape

    return escape(f"{run.model['source']}, {run.model['bits']:.2f} bits a weight, {run.run.get('date', '')}")


def _task(a: TaskResult, b: TaskResult) -> list[Pair]:
    theirs = {metric.name: metric for metric in b.metrics}
    documents = {document.id: document for document in b.documents}
    found = []
    for metric in a.metrics:
        other = theirs.get(metric.name)
        if other is None:
            continue
        both = [
            (document, documents[document.id])
            for document in a.documents
            if document.id in documents
            and metric.name in document.scores
            and metric.name in documents[document.id].scores
        ]
        found.append(_pair(a.task, metric, other, both))
    return found


def _pair(task: str, a: Metric, b: Metric, both: Sequence[tuple[Document, Document]]) -> Pair:
    if not both or a.form == "given":
        n = min(a.n, b.n)
        return Pair(task, a.name, n, a.value, b.value, b.value - a.value, higher_is_better=a.higher_is_better)
    name = a.name
    first = np.array([document.scores[name] for document, _ in both], dtype=np.float64)
    second = np.array([document.scores[name] for _, document in both], dtype=np.float64)
    weights = np.array([document.weights.get(name, 1.0) for document, _ in both], dtype=np.float64)
    values = float(np.average(first, weights=weights)), float(np.average(second, weights=weights))
    difference = values[1] - values[0]
    low = high = p = None
    test = ""
    if len(both) > 1:
        low, high, p = paired_bootstrap(second - first, weights)
        test = "paired bootstrap"
    gained = lost = 0
    if np.isin(np.concatenate([first, second]), (0.0, 1.0)).all() and (weights == 1).all():
        gained, lost = int((second > first).sum()), int((second < first).sum())
        p, test = mcnemar(gained, lost), "McNemar"
    if a.form == "exp":
        values = exp(min(values[0], 700.0)), exp(min(values[1], 700.0))
        difference, low, high = (None if x is None else exp(min(x, 700.0)) - 1 for x in (difference, low, high))  # type: ignore[assignment]
    return Pair(
        task, name, len(both), *values, difference, low, high, p, test, gained, lost, a.higher_is_better
    )  # fmt: skip
