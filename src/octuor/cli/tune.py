"""octuor tune: fine-tune a model from a recipe."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Optional

import typer

from octuor.cli import options


def main(
    recipe: Annotated[Path, typer.Argument(help="A tuning recipe, as in recipes/tune.toml.")],
    out: Annotated[Optional[Path], typer.Option(help="The run's folder; default: runs/NAME.")] = None,  # noqa: UP045
    threads: options.Threads = None,
) -> None:
    """Learn from talks, texts or preferences, or go on where a stopped run left off; writes an adapter or a model."""
    from octuor.errors import BackendError
    from octuor.tune.recipe import read_tune_recipe

    plan = read_tune_recipe(recipe)
    for library in ("torch", "peft", "matplotlib"):
        if find_spec(library) is None:
            raise BackendError(f'octuor tune: expected the library {library}, found none; pip install "octuor[train]"')
    from octuor.checkpoint import open_checkpoint
    from octuor.tokenizer import open_tokenizer
    from octuor.tune.data import load_data
    from octuor.tune.loop import tune
    from octuor.tune.outputs import write_outputs

    run = out or Path("runs") / recipe.stem
    checkpoint = open_checkpoint(plan.tune.path)
    tokenizer = open_tokenizer(checkpoint.tokenizer_bytes())
    data = load_data(plan, tokenizer)
    print(len(data.train.examples), len(data.validation.examples), data.train.problems[:3])
    outcome = tune(plan, checkpoint, data, run, on_step=lambda m, n: print(m, n), threads=threads)
    print(outcome.before, outcome.best)
    for path in write_outputs(outcome, plan, checkpoint, run):
        print(path)
