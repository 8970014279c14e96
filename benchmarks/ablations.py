"""What the pocket model's choices are worth: small models that differ in one of them, trained side by side.

    python benchmarks/ablations.py DIR [--out runs/ablations] [--steps N] [--only NAME ...] [--plot FILE]

DIR is the corpus of recipes/pocket-first.toml, with eval/. All runs see that recipe's sources for as many tokens, and
differ from `base` (4 layers of dim 128, 8 experts of hidden 256 of which a token meets 2, Muon, a sampled softmax) as
their names say. `dense` has one expert of hidden 512, so that a token meets as many weights. Printed: parameters, those
that a token meets, the loss of held-out texts and answers, and how much more `dense` loses than `base` on the rows that
both train on, quarter by quarter. Runs that were stopped go on; runs that are there are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import octuor
import pocket
from octuor.config import ModelConfig
from octuor.tokenizer import Tokenizer, find_mistral_common_tokenizer, open_tokenizer
from octuor.train.data import find_file
from octuor.train.export import export
from octuor.train.loop import read_metrics, train
from octuor.train.plot import smoothed
from octuor.train.recipe import Export, Recipe, Stage, read_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "pocket-first.toml"
BASE = ModelConfig(
    dim=128, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=256, vocab_size=32000, n_experts=8,
    n_experts_per_token=2, rope_theta=1e4, max_seq_len=1024,
)  # fmt: skip
SMOOTHED_STEPS = 20
METRICS = "metrics.jsonl"

Change = Callable[[Recipe], Recipe]


def of_model(**changes: int) -> Change:
    """Another geometry."""
    return lambda recipe: replace(recipe, model=replace(recipe.model, **changes))


def of_schedule(**changes: object) -> Change:
    """Another schedule."""
    return lambda recipe: replace(recipe, schedule=replace(recipe.schedule, **changes))  # type: ignore[arg-type]


def mixed_throughout(recipe: Recipe) -> Recipe:
    """The same sources without an order: each stage's weights by its length, all the time."""
    weights: dict[str, float] = {}
    began = 0.0
    for stage in recipe.stages:
        total = sum(stage.weights.values())
        for name, weight in stage.weights.items():
            weights[name] = weights.get(name, 0.0) + (stage.until - began) * weight / total
        began = stage.until
    return replace(recipe, stages=(Stage(1.0, weights),))


VARIANTS: dict[str, Change] = {
    "base": lambda recipe: recipe,
    "dense": of_model(n_experts=1, n_experts_per_token=1, hidden_dim=512),
    "narrower": of_model(dim=96, hidden_dim=192, head_dim=24),
    "wider": of_model(dim=192, hidden_dim=384, head_dim=48),
    "deeper": of_model(n_layers=6),
    "adamw": of_schedule(optimizer="adamw"),
    "whole-softmax": of_schedule(sampled_words=0),
    "mixed-throughout": mixed_throughout,
    "little-balance": of_schedule(balance=0.002),
}


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs") / "ablations")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=150, help="held-out rows of each kind")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    recipe = read_recipe(RECIPE)
    schedule = replace(
        recipe.schedule, steps=options.steps, optimizer="muon", sampled_words=2000, warmup_steps=20, save_every=50
    )
    recipe = replace(recipe, model=BASE, schedule=schedule, export=Export("bf16"))
    tokenizer_file = find_mistral_common_tokenizer()
    tokenizer = open_tokenizer(tokenizer_file)
    print("                   M params  a token   texts  answers  least load  tokens/s")
    for name in options.only:
        run = options.out / name
        if not (run / "model.octuor").is_file():
            learn(VARIANTS[name](recipe), options.data, run, tokenizer, tokenizer_file)
        print(row_of(name, run, options.data / "eval", options.rows), flush=True)
    if {"base", "dense"} <= set(options.only):
        print(behind(options.out))
    if options.plot:
        plot({name: options.out / name for name in options.only}, options.plot)


def learn(recipe: Recipe, data: Path, run: Path, tokenizer: Tokenizer, tokenizer_file: Path) -> None:
    """One run; its sources are tokenized once for all."""
    run.mkdir(parents=True, exist_ok=True)
    (shared := run.parent / "tokens").mkdir(exist_ok=True)
    if not (run / "tokens").exists():
        (run / "tokens").symlink_to(shared.resolve())
    export(train(recipe, data, run, tokenizer), run, tokenizer_file)


def row_of(name: str, run: Path, held_out: Path, n_rows: int) -> str:
    """A line of the table."""
    model = octuor.load(run / "model.octuor")
    loads = np.zeros((model.config.n_layers, model.config.n_experts))
    losses = []
    for kind in ("pretrain_valid", "chat_valid"):
        by_language = pocket.held_out_loss(model, pocket.shuffled(find_file(held_out, kind))[:n_rows], loads)
        losses.append(sum(loss for loss, _ in by_language.values()) / sum(count for _, count in by_language.values()))
    metrics = read_metrics(run / METRICS)
    least = (loads / loads.sum(1, keepdims=True)).min() if loads.any() else 1.0
    speed = np.median([step.tokens_per_s for step in metrics])
    return (
        f"{name:18} {model.config.n_params / 1e6:8.2f} {model.config.n_active_params / 1e6:8.2f} {losses[0]:7.3f}"
        f" {losses[1]:8.3f} {least:10.1%} {speed:9,.0f}"
    )


def behind(out: Path) -> str:
    """What the dense model loses more than the mixture on the same rows, in each quarter of the run."""
    dense, base = (np.array([step.loss for step in read_metrics(out / name / METRICS)]) for name in ("dense", "base"))
    quarters = np.array_split(dense - base, 4)
    found = (f"{part.mean():+.3f} ± {part.std() / len(part) ** 0.5:.3f}" for part in quarters)
    return f"dense less base, nats a token, by quarter: {', '.join(found)}"


def plot(runs: dict[str, Path], out: Path) -> None:
    """Training losses over tokens, a line a run, and below how far each is from base's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    found = {name: smoothed(read_metrics(run / METRICS), SMOOTHED_STEPS) for name, run in runs.items()}
    for name, (tokens, losses) in found.items():
        upper.plot(tokens, losses, label=name)
        if "base" in found:
            lower.plot(tokens, losses - found["base"][1], label=name)
    upper.set_ylabel(f"training loss, mean of {SMOOTHED_STEPS} steps, nats a token")
    upper.legend()
    lower.set_ylabel("more than base")
    lower.set_ylim(-0.15, 0.35)
    lower.set_xlabel("tokens, millions")
    FigureCanvasAgg(figure).print_png(out)


if __name__ == "__main__":
    main()
