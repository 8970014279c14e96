"""octuor tune: check data, fine-tune a model from a recipe, try learning rates."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.checkpoint import Checkpoint
    from octuor.tune.check import Check
    from octuor.tune.data import Dataset
    from octuor.tune.loop import TuneMetrics
    from octuor.tune.recipe import TuneRecipe
    from octuor.tune.score import Validation


def main(
    recipe: Annotated[Path, typer.Argument(help="A tuning recipe, as in recipes/tune.toml.")],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder that the recipe's files are in; default: the recipe's own."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="The run's folder; default: runs/NAME.")] = None,  # noqa: UP045
    check_only: Annotated[bool, typer.Option("--check-only", help="Say what the data is like, and stop.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Try the recipe's learning rates in short runs.")] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Learn from talks, texts or preferences, or go on where a stopped run left off; writes an adapter or a model."""
    from octuor.checkpoint import open_checkpoint
    from octuor.tune.check import check, describe
    from octuor.tune.recipe import read_tune_recipe

    plan = read_tune_recipe(recipe, data)
    if not check_only:
        _need_libraries(plan)
    checkpoint = open_checkpoint(plan.tune.path)
    rows = _load(plan, checkpoint)
    found = check(rows, plan)
    if not as_json:
        print(describe(found), file=sys.stderr)
    elif check_only:
        print(json.dumps(found.to_dict()))
    _refuse_bad_rows(plan, found)
    if check_only:
        return
    run = out or Path("runs") / recipe.stem
    result = (_sweep if sweep else _tune)(plan, checkpoint, rows, run, threads)
    if as_json:
        print(json.dumps(result))


def _tune(plan: TuneRecipe, checkpoint: Checkpoint, data: Dataset, run: Path, threads: int | None) -> dict[str, Any]:
    from octuor.cli.progress import training_bar
    from octuor.tune.loop import METRICS, read_metrics, tune
    from octuor.tune.outputs import write_outputs
    from octuor.tune.plan import plan_steps
    from octuor.tune.plot import plot_run

    with training_bar(len(plan_steps(data.train.lengths, plan.schedule))) as (update, line):
        done = 0

        def on_step(metrics: TuneMetrics, total: int) -> None:
            nonlocal done
            done = metrics.step
            update(f"loss {metrics.loss:.3f} · {metrics.tokens_per_s:,.0f} tokens/s", done)
            if done % plan.schedule.log_every == 0 or metrics.validation_loss is not None:
                line(_words(metrics, total))

        outcome = tune(
            plan, checkpoint, data, run, on_step=on_step, threads=threads,
            on_work=lambda what, n, total: update(f"{what}: {n}/{total} rows", done),
        )  # fmt: skip
    written = write_outputs(outcome, plan, checkpoint, run)
    plot_run(read_metrics(run / METRICS), outcome.before, run / "loss.png")
    if outcome.before is not None and outcome.best is not None:
        print(f"validation: {_of(outcome.before)}; after: {_of(outcome.best)}", file=sys.stderr)
    if outcome.stopped:
        print(f"stopped after {outcome.steps} steps: validation no longer improves", file=sys.stderr)
    for path in written:
        print(path, file=sys.stderr)
    before, best = (None if found is None else vars(found) for found in (outcome.before, outcome.best))
    return {
        "steps": outcome.steps, "stopped": outcome.stopped, "before": before, "best": best,
        "outputs": [str(path) for path in written],
    }  # fmt: skip


def _sweep(plan: TuneRecipe, checkpoint: Checkpoint, data: Dataset, run: Path, threads: int | None) -> dict[str, Any]:
    from octuor.cli.progress import training_bar
    from octuor.tune.plot import plot_sweep
    from octuor.tune.sweep import recommend, sweep, table

    folder = run / "sweep"
    rates = sorted(plan.sweep.learning_rates)
    with training_bar(plan.sweep.steps * len(rates)) as (update, _):

        def on_step(rate: float, metrics: TuneMetrics, _: int) -> None:
            done = rates.index(rate) * plan.sweep.steps + metrics.step
            update(f"learning rate {rate:g} · loss {metrics.loss:.3f}", done)

        trials = sweep(plan, checkpoint, data, folder, on_step=on_step, threads=threads)
    plot_sweep(trials, folder / "sweep.png")
    best, why = recommend(trials)
    print(table(trials), file=sys.stderr)
    print(f"learning_rate = {best.learning_rate:g}   # {why}; {folder / 'sweep.png'}", file=sys.stderr)
    rows = [{"learning_rate": t.learning_rate, "loss": t.loss, "validation_loss": t.validation} for t in trials]
    return {"trials": rows, "learning_rate": best.learning_rate, "reason": why, "plot": str(folder / "sweep.png")}


def _load(plan: TuneRecipe, checkpoint: Checkpoint) -> Dataset:
    from octuor.cli.progress import steps_bar
    from octuor.errors import TokenizerError
    from octuor.tokenizer import open_tokenizer
    from octuor.tune.data import load_data

    words = checkpoint.tokenizer_bytes()
    if words is None:
        raise TokenizerError(f"{checkpoint.source}: expected a tokenizer to encode rows with, found none")
    tokenizer = open_tokenizer(words)
    if tokenizer.n_words > checkpoint.config.vocab_size:
        raise TokenizerError(
            f"{checkpoint.source}: expected a tokenizer of at most {checkpoint.config.vocab_size} words, found "
            f"{tokenizer.n_words}; is it another model's?"
        )
    with steps_bar() as update:
        return load_data(plan, tokenizer, update)


def _need_libraries(plan: TuneRecipe) -> None:
    from octuor.errors import BackendError

    wanted = ["torch", "matplotlib"]
    if plan.tune.method == "lora":
        wanted.append("peft")
    if plan.schedule.tensorboard:
        wanted.append("tensorboardX")
    for library in wanted:
        if find_spec(library) is None:
            raise BackendError(f'octuor tune: expected the library {library}, found none; pip install "octuor[train]"')


def _refuse_bad_rows(plan: TuneRecipe, found: Check) -> None:
    from octuor.errors import ConfigError

    problems = [*found.train.problems, *(found.validation.problems if found.validation else [])]
    if problems and plan.data.on_bad_row == "stop":
        first = problems[0]
        raise ConfigError(
            f'{first.where}: {first.what}; {len(problems)} such rows: mend them, or set [data] on_bad_row = "skip"'
        )


def _words(metrics: TuneMetrics, total: int) -> str:
    parts = [f"step {metrics.step}/{total}: loss {metrics.loss:.4f}"]
    if metrics.margin is not None:
        parts.append(f"margin {metrics.margin:.3f}, {metrics.accuracy:.0%} of pairs ahead")
    if metrics.balance is not None:
        parts.append(f"balance {metrics.balance:.3f}")
    parts.append(f"gradient {metrics.gradient_norm:.2f}, {metrics.tokens_per_s:,.0f} tokens/s")
    if metrics.validation_loss is not None:
        parts.append(f"validation {metrics.validation_loss:.4f}")
    return ", ".join(parts)


def _of(found: Validation) -> str:
    if found.margin is None:
        return f"loss {found.loss:.4f}"
    return f"loss {found.loss:.4f}, margin {found.margin:.3f}, {found.accuracy:.0%} of pairs ahead"
