"""A run as a file, as a page, and beside another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from octuor.errors import RequestError
from octuor.evaluate.compare import compare, comparison_html, read_result, write_comparison
from octuor.evaluate.published import VALUES, published
from octuor.evaluate.report_html import report_html
from octuor.evaluate.result import Document, Example, RunResult, TaskResult, read_run
from octuor.evaluate.statistics import make_metric


def run(name: str, right: list[int], losses: list[float]) -> RunResult:
    documents = [
        Document(str(n), {"pass@1": float(ok), "loss": loss}, {"loss": 10.0})
        for n, (ok, loss) in enumerate(zip(right, losses, strict=True))
    ]
    metrics = (
        make_metric("pass@1", documents),
        make_metric("loss", documents, form="exp", higher_is_better=False),
    )
    example = Example("0", "<b>prompt & more", "x" * 9000, "right", {"pass@1": 1.0})
    task = TaskResult("humaneval", "Programs.", metrics, tuple(documents), (example,), {"shots": 0}, 1.5)
    model = {"name": name, "source": f"/{name}", "params": 36_000_000, "bytes": 28_000_000, "bits": 4.4}
    machine = {"cpu": "a CPU", "threads": 2, "isa": "avx2"}
    about = {"seconds": 2.0, "date": "2026-01-01T00:00:00+00:00", "seed": 0, "cache": "f16"}
    return RunResult(model, machine, about, (task,))


def test_a_file_gives_the_same_run_back(tmp_path: Path) -> None:
    found = run("a", [1, 0, 1], [1.0, 2.0, 3.0])
    path = tmp_path / "result.json"
    path.write_text(json.dumps(found.as_json()))
    assert read_result(path) == found
    assert read_run(found.as_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "octuor evaluation, 1"}'])
def test_a_file_of_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"expected a result\.json"):
        read_result(path)


def test_the_page_needs_nothing_else_and_escapes() -> None:
    page = report_html(run("a<script>", [1, 0, 1], [1.0, 2.0, 3.0]))
    assert "http" not in page
    assert "a<script>" not in page
    assert "&lt;b&gt;prompt &amp; more" in page
    assert "characters ..." in page
    assert "0.402 (8x7B, 0 shots)" in page


def test_published_values_are_found_by_task_and_metric() -> None:
    known = published("humaneval", "pass@1")
    assert known is not None
    assert known.value == 0.402
    assert published("humaneval", "pass@7") is None
    assert all(task and metric for task, metric in VALUES)


def test_a_comparison_pairs_documents() -> None:
    first, second = run("a", [1, 0] * 10, [2.0] * 20), run("b", [1] * 19 + [0], [1.5] * 20)
    right, loss = compare(first, second)
    assert (right.n, right.gained, right.lost, right.test) == (20, 9, 0, "McNemar")
    assert right.p == pytest.approx(2 / 2**9)
    assert right.verdict == "better"
    assert (loss.test, loss.verdict) == ("paired bootstrap", "better")
    assert loss.difference == pytest.approx(2.718281828**-0.5 - 1)
    assert loss.first == pytest.approx(2.718281828**2)


def test_no_difference_is_no_verdict_and_documents_may_be_missing() -> None:
    first = run("a", [1, 0, 1, 0], [1.0, 2.0, 1.0, 3.0])
    task = first.tasks[0]
    second = replace(first, tasks=(replace(task, documents=task.documents[:2]),))
    right, _ = compare(first, second)
    assert (right.n, right.difference, right.p, right.verdict) == (2, 0.0, 1.0, "")


def test_runs_without_a_common_task() -> None:
    first = run("a", [1], [1.0])
    second = replace(first, tasks=(replace(first.tasks[0], task="other"),))
    with pytest.raises(RequestError, match="tasks that both runs have"):
        compare(first, second)


def test_a_comparison_is_written(tmp_path: Path) -> None:
    first, second = run("a", [1, 0, 1], [1.0, 2.0, 3.0]), run("b", [0, 0, 1], [1.0, 2.5, 3.0])
    pairs = compare(first, second)
    write_comparison(first, second, pairs, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "compare.json").read_text())["pairs"][0]["metric"] == "pass@1"
    assert (tmp_path / "new" / "compare.html").read_text() == comparison_html(first, second, pairs)
