"""What an evaluation found: plain values that a report shows, a file keeps and a comparison pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Form = Literal["mean", "exp", "given"]


@dataclass(frozen=True)
class Metric:
    """One figure of a task.

    form       what it is of its documents' scores: their (weighted) mean, its exponential, or "given": a figure of the
               whole, such as BLEU, whose documents have no scores of their own
    low, high  bounds of the 95 % interval; None: not known
    n          documents it is of
    how        how the interval was made
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    form: Form = "mean"
    higher_is_better: bool | None = True
    how: str = ""


@dataclass(frozen=True)
class Document:
    """One question's scores by metric.

    id       the same for the same question in every run
    weights  of scores that do not count alike, such as a text's words; others count 1
    """

    id: str
    scores: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A question as the model saw it and what it said, for people to read."""

    id: str
    prompt: str
    answer: str
    expected: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """One task's figures.

    about      what is asked, in a sentence
    settings   what decides the figures beside the model: shots, prompts, temperatures, seeds, versions
    seconds    from the first question to the last figure
    """

    task: str
    about: str
    metrics: tuple[Metric, ...]
    documents: tuple[Document, ...]
    examples: tuple[Example, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError where there is none."""
        return {metric.name: metric for metric in self.metrics}[name]


@dataclass(frozen=True)
class RunResult:
    """All tasks of one run, with what they were run on.

    model    name, geometry, formats, bytes
    machine  cpu, kernels, threads
    run      command, date, seed, limit, tokens a second, version
    """

    model: Mapping[str, Any]
    machine: Mapping[str, Any]
    run: Mapping[str, Any]
    tasks: tuple[TaskResult, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON values, which `read_run` takes back."""
        return {"kind": KIND, **asdict(self)}


KIND = "octuor evaluation, 1"


def read_run(value: Any) -> RunResult:
    """What `as_json` gave. Raises KeyError, TypeError or ValueError on anything else."""
    if value["kind"] != KIND:
        raise ValueError(f"kind {value['kind']!r}")
    tasks = tuple(
        TaskResult(
            task["task"],
            task["about"],
            tuple(Metric(**metric) for metric in task["metrics"]),
            tuple(Document(**document) for document in task["documents"]),
            tuple(Example(**example) for example in task["examples"]),
            task["settings"],
            task["seconds"],
        )
        for task in value["tasks"]
    )
    return RunResult(value["model"], value["machine"], value["run"], tasks)
