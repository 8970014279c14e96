"""A model that learns a new domain and a preference: what it gains, what it loses, and whether others read it alike.

    python benchmarks/adaptation.py DIR [--model pocket.octuor] [--out runs/adaptation] [--threads N]

DIR is the corpus of recipes/pocket.toml with eval/mbpp.jsonl.xz and preferences/politeness.jsonl.xz. `octuor tune`
learns short Python functions from their descriptions (MBPP's rows with ids above 510), once alone and once with some
rows of the corpus beside them, then to prefer polite answers. Printed: the mean loss of held-out rows of the domain and
of the corpus before and after, the margin of held-out pairs, and how far the adapter's logits are from those of peft
and transformers and from the merged model's. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import octuor
import pocket
from octuor.api import POCKET
from octuor.checkpoint import open_checkpoint
from octuor.ops.native import NativeOps
from octuor.tokenizer import open_tokenizer
from octuor.train.data import find_file, open_text
from octuor.train.learner import choose_dtype
from octuor.tune.data import load_data
from octuor.tune.loop import BEST
from octuor.tune.recipe import read_tune_recipe
from octuor.tune.score import Scorer
from octuor.tune.student import Student

REPLAYED = {"chat": 30, "pretrain": 10}  # rows of each file, those of up to so many characters:
SHORT = 800
SCHEDULE = """
[schedule]
steps = {steps}
tokens_per_step = 2048
tokens_at_once = 2048
learning_rate = {rate}
validate_every = {every}
dtype = "f32"
"""
RECIPE = """[tune]
model = "{model}"
targets = ["attention", "experts"]
rank = 16
alpha = 32

[data]
train = {train}
validation = ["{valid}"]
max_tokens = 512
"""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """All rows of a file."""
    with open_text(path) as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(data: Path, out: Path) -> None:
    """Write the rows that are learned from and measured on."""
    out.mkdir(parents=True, exist_ok=True)
    functions = rows_of(find_file(data / "eval", "mbpp"))

    def instructions(ids: range) -> list[dict[str, Any]]:
        chosen = [row for row in functions if row["task_id"] in ids]
        return [{"instruction": row["text"], "output": row["code"]} for row in chosen]

    write(out / "domain.jsonl", instructions(range(511, 975)))
    write(out / "domain-valid.jsonl", instructions(range(11, 111)))
    write(out / "domain-held-out.jsonl", instructions(range(111, 311)))
    replayed: list[dict[str, Any]] = []
    for folder, n in REPLAYED.items():
        for path in sorted((data / folder).glob("*.jsonl.xz")):
            short = [row for row in rows_of(path) if len(json.dumps(row)) <= SHORT]
            replayed += [{key: row[key] for key in ("messages", "text") if key in row} for row in short[:n]]
    write(out / "replayed.jsonl", replayed)
    for name in ("chat_valid", "pretrain_valid"):
        write(out / f"{name}.jsonl", pocket.shuffled(find_file(data / "eval", name))[:200])
    pairs = rows_of(find_file(data / "preferences", "politeness"))
    write(out / "polite.jsonl", pairs[:500])
    write(out / "polite-valid.jsonl", pairs[500:600])


def tuned(out: Path, name: str, recipe: str, threads: int) -> Path:
    """Run `octuor tune` on a recipe; returns the run's folder."""
    path, run = out / f"{name}.toml", out / name
    path.write_text(recipe, encoding="utf-8")
    if not (run / "adapter").is_dir():
        command = [sys.executable, "-m", "octuor", "tune", str(path), "--out", str(run), "--threads", str(threads)]
        subprocess.run(command, check=True)
    return run


def losses(recipe: Path, run: Path, files: list[Path]) -> None:
    """Print each file's mean loss, nats a counted token, before and after."""
    plan = read_tune_recipe(recipe)
    checkpoint = open_checkpoint(plan.tune.path)
    tokenizer = open_tokenizer(checkpoint.tokenizer_bytes() or b"")
    dtype = choose_dtype(plan.schedule.dtype)
    student = Student(checkpoint, plan.tune, plan.schedule, dtype, NativeOps(threads=torch.get_num_threads()), 0)
    scorer = Scorer(checkpoint.config, replace(plan, preference=None), dtype, None)
    for name, value in torch.load(run / BEST, weights_only=True).items():
        student.learner.masters[name].copy_(value)
    student.learner.refresh()
    print(f"{'rows':>6} {'tokens':>8} {'before':>8} {'after':>8} {'change':>8}  {run.name}")
    for file in files:
        data = replace(plan.data, train=(str(file.absolute()),), validation=(), validation_share=0.0)
        split = load_data(replace(plan, data=data, preference=None), tokenizer).train
        before, after = (scorer.validate(tree, split, None).loss for tree in (student.base, student.settled))
        counted = sum(int(example.pieces[0].learned[1:].sum()) for example in split.examples)
        print(f"{len(split.rows):>6} {counted:>8} {before:>8.4f} {after:>8.4f} {after - before:>+8.4f}  {file.name}")


def margins(run: Path) -> None:
    """Print what the validations of a preference's run said: the first, and the best."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [step for step in steps if step["validation_loss"] is not None]
    best = min(validated, key=lambda step: step["validation_loss"])
    print(
        f"held-out pairs: loss {np.log(2):.4f} before, {best['validation_loss']:.4f} after {best['step']} steps; "
        f"margin 0 and {best['validation_margin']:.3f}; ahead in {best['validation_accuracy']:.0%}"
    )


def agreement(model: str, run: Path, out: Path) -> None:
    """Print how far logits over the adapter are from peft's and from the merged model's."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, merged = out / "base", out / "merged"
    for words in (["convert", model, str(folder)], ["convert", model, str(merged), "--merge", str(run / "adapter")]):
        if not Path(words[2]).is_dir():
            options = ["--to", "huggingface", "--format", "f32"]
            subprocess.run([sys.executable, "-m", "octuor", *words, *options], check=True)
    adapted = octuor.load(folder, adapter=run / "adapter", cache_dtype="f32")
    ids = adapted.tokenizer.encode("Write a function to add up a list.\ndef total(numbers):\n    return sum(numbers)")
    ours = np.asarray(adapted.logits(ids))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        plain = base(torch.tensor([ids])).logits[0].numpy()
        theirs = PeftModel.from_pretrained(base, str(run / "adapter")).eval()(torch.tensor([ids])).logits[0].numpy()
    whole = np.asarray(octuor.load(merged, cache_dtype="f32").logits(ids))
    peft, together, moved = (float(np.abs(found - theirs).max()) for found in (ours, whole, plain))
    print(
        f"logits of {len(ids)} tokens, up to {np.abs(theirs).max():.1f}: ours are {peft:.1e} from peft's, the merged "
        f"model's {together:.1e}; the adapter moves them by {moved:.1f}"
    )


def main() -> None:
    """Learn and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=str(POCKET))
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out: Path = options.out
    prepare(options.data, out)
    measured = [out / f"{name}.jsonl" for name in ("domain-held-out", "chat_valid", "pretrain_valid")]
    domain = RECIPE.format(model=options.model, train='["domain.jsonl"]', valid="domain-valid.jsonl")
    mixed = RECIPE.format(model=options.model, train='["domain.jsonl", "replayed.jsonl"]', valid="domain-valid.jsonl")
    polite = RECIPE.format(model=options.model, train='["polite.jsonl"]', valid="polite-valid.jsonl")
    for name, recipe in (
        ("domain", domain + SCHEDULE.format(steps=92, rate=2e-3, every=22)),
        ("domain-and-replay", mixed + SCHEDULE.format(steps=40, rate=2e-3, every=20)),
    ):
        losses(out / f"{name}.toml", tuned(out, name, recipe, options.threads), measured)
    preference = polite + "\n[preference]\nbeta = 0.1\n" + SCHEDULE.format(steps=24, rate=3e-3, every=6)
    margins(tuned(out, "polite", preference, options.threads))
    agreement(options.model, out / "domain", out)


if __name__ == "__main__":
    main()
