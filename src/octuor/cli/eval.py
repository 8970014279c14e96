"""octuor eval: what a model is worth, by the harness's tasks and our own."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.evaluate.result import TaskResult

Folder = Optional[Path]  # noqa: UP045 - typer reads the annotation at run time


def main(
    model: options.ModelArgument = None,
    tasks: Annotated[str, typer.Option(help="Names with commas between; see --list.")] = "perplexity",
    data: Annotated[
        Folder, typer.Option(help="The folder with the tasks' files; docs/evaluation.md says which.")
    ] = None,
    out: Annotated[
        Folder, typer.Option(help="A folder for the report and the answers; a run that was killed goes on there.")
    ] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Documents of each task at most.")] = None,  # noqa: UP045
    shots: Annotated[int | None, typer.Option(min=0, help="Examples before a question; default: the task's.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the model's chat format.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Programs a problem, for pass@k.")] = 1,
    text: Annotated[
        Folder, typer.Option(help="What perplexity and divergence are of; default: Octuor's own text.")
    ] = None,
    reference: Annotated[Optional[str], typer.Option(help="A model that divergence compares with.")] = None,  # noqa: UP045
    judge: Annotated[Optional[str], typer.Option(help="Address of an OpenAI-compatible server that grades.")] = None,  # noqa: UP045
    judge_model: Annotated[Optional[str], typer.Option(help="Its name there; default: the first.")] = None,  # noqa: UP045
    judge_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="OCTUOR_JUDGE_KEY", help="The server's API key.", show_envvar=True),
    ] = None,
    lexicon: Annotated[Folder, typer.Option(help="Words and sentiments for bold; default: VADER's.")] = None,
    tasks_dir: Annotated[Folder, typer.Option(help="A folder of the harness's own task files.")] = None,
    longest: Annotated[int, typer.Option(min=64, help="Tokens of the longest passkey text.")] = 32768,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run the model's programs even where nothing isolates them.")
    ] = False,
    cache_dtype: Annotated[str, typer.Option(help="Of keys and values: f16 or f32.")] = "f16",
    context: options.Context = None,
    threads: options.Threads = None,
    resident: options.Resident = False,
    memory: options.Memory = None,
    list_tasks: Annotated[bool, typer.Option("--list", help="Name the tasks that need no network, and end.")] = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate a model: lm-evaluation-harness's tasks and Octuor's own, with intervals and a report."""
    if list_tasks:
        _list()
        return
    from octuor.api import load
    from octuor.cli.progress import PromptBar, steps_bar
    from octuor.errors import RequestError
    from octuor.evaluate.run import REPORT, evaluate
    from octuor.evaluate.setting import Setting

    if cache_dtype not in ("f16", "f32"):
        raise RequestError(f"--cache-dtype: expected f16 or f32, found {cache_dtype!r}")
    bar = PromptBar()
    with bar:
        loaded = load(
            model, threads=threads, context=context, cache_dtype=cache_dtype, resident=resident, memory=memory,
            on_load=bar.loading,
        )  # fmt: skip
    with steps_bar() as show:
        setting = Setting(
            data, limit, seed, chat, shots, samples, judge, judge_model, judge_key, is_unsafe=unsafe,
            tasks_dir=tasks_dir, out=out, text=text, reference=reference, lexicon=lexicon, cache_dtype=cache_dtype,
            longest=longest, tell=with_rate(show),
        )  # fmt: skip
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        result = evaluate(loaded, names, setting, command=_command(), on_task=None if as_json else _print)
    if as_json:
        print(json.dumps(result.as_json()))
    elif out is not None:
        print(f"report: {out / REPORT}")


def with_rate(show: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """A progress that tells how many a second and how long it will take."""
    began: dict[str, tuple[float, int]] = {}  # what -> when it was first told of, and what was done by then

    def tell(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, before = began.setdefault(what, (now, done))
        if done == total:
            began.pop(what)
        rate = (done - before) / (now - start) if now > start else 0.0
        left = f", {rate:.3g} a second, {(total - done) / rate:.0f} s left" if rate else ""
        show(what + left, done, total)

    return tell


def _command() -> str:
    """As it was typed; a key is not told."""
    words = list(sys.argv[1:])
    for at, word in enumerate(words):
        if word == "--judge-key" and at + 1 < len(words):
            words[at + 1] = "..."
        elif word.startswith("--judge-key="):
            words[at] = "--judge-key=..."
    return shlex.join(["octuor", *words])


def _print(task: TaskResult) -> None:
    for metric in task.metrics:
        bounds = "" if metric.low is None or metric.high is None else f"  {metric.low:.4g} to {metric.high:.4g}"
        print(f"{task.task:20} {metric.name:28} {metric.value:10.4g}{bounds}  n {metric.n}")


def _list() -> None:
    from octuor.evaluate.harness import own_configs
    from octuor.evaluate.registry import TASKS

    for task in TASKS:
        print(f"{task.name:20} {task.about}")
    for name, path in own_configs().items():
        print(f"{name:20} {path.read_text(encoding='utf-8').partition(chr(10))[0].removeprefix('# ')}")
    print("and all of lm-evaluation-harness's, by its own names, where the network brings their data")
