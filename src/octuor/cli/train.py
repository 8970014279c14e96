"""octuor train: train a model from a recipe and export it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Optional

import typer

from octuor.cli import options


def main(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as in recipes/pocket.toml.")],
    data: Annotated[Path, typer.Option(help="Folder with the sources that the recipe names.")],
    out: Annotated[Optional[Path], typer.Option(help="The run's folder; default: runs/NAME.")] = None,  # noqa: UP045
    tokenizer: Annotated[
        Optional[Path], typer.Option(help="A tokenizer.model; default: Mixtral's, from mistral-common.")  # noqa: UP045
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Train a model, or go on where a stopped run left off; writes a Hugging Face checkpoint and a pack."""
    from octuor.errors import BackendError
    from octuor.train.recipe import read_recipe

    plan = read_recipe(recipe)
    for library in ("torch", "matplotlib"):
        if find_spec(library) is None:
            raise BackendError(f'octuor train: expected the library {library}, found none; pip install "octuor[train]"')
    from octuor.cli.progress import training_bar
    from octuor.tokenizer import find_mistral_common_tokenizer, open_tokenizer
    from octuor.train.export import export
    from octuor.train.loop import StepMetrics, train
    from octuor.train.plot import plot_losses

    run = out or Path("runs") / recipe.stem
    tokenizer_file = tokenizer or find_mistral_common_tokenizer()
    with training_bar(plan.schedule.steps) as (update, line):

        def on_source(name: str, tokens: int) -> None:
            line(f"{name}: {tokens:,} tokens")

        def on_step(metrics: StepMetrics) -> None:
            update(f"loss {metrics.loss:.3f} · {metrics.tokens_per_s:,.0f} tokens/s", metrics.step)
            if metrics.step % plan.schedule.log_every == 0:
                line(
                    f"step {metrics.step}: loss {metrics.loss:.3f}, balance {metrics.balance:.3f}, least loaded expert "
                    f"{metrics.least_load:.1%}, gradient {metrics.gradient_norm:.2f}, "
                    f"{metrics.tokens_per_s:,.0f} tokens/s"
                )

        state = train(
            plan, data, run, open_tokenizer(tokenizer_file), on_source=on_source, on_step=on_step, threads=threads
        )
    for path in export(state, run, tokenizer_file):
        print(path)
    plot_losses(run / "metrics.jsonl", run / "loss.png")
