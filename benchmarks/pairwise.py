"""Answers of two models to the same prompts, read without knowing whose is whose.

    python benchmarks/pairwise.py ask A B --out DIR [--prompts FILE] [--temperature T]
    python benchmarks/pairwise.py count DIR

`ask` writes DIR/pairs.md, in which a coin decides for each prompt which model's answer is the left one, and
DIR/key.json, which says so; a reader writes DIR/verdicts.txt, a line a prompt: "left", "right" or "same". `count`
prints what the verdicts say of A and B, and all answers with their names.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import octuor
from octuor.evaluate.statistics import wilson

PROMPTS = Path(__file__).parent / "pocket_prompts.txt"
MAX_ANSWER = 200
SIDES = ("left", "right")


def main() -> None:
    """Ask, or count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask")
    asking.add_argument("models", nargs=2, type=Path)
    asking.add_argument("--out", type=Path, required=True)
    asking.add_argument("--prompts", type=Path, default=PROMPTS)
    asking.add_argument("--temperature", type=float, default=0.3)
    counting = commands.add_parser("count")
    counting.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "ask":
        ask(options.models, options.prompts.read_text(encoding="utf-8").splitlines(), options.out, options.temperature)
    else:
        count(options.folder)


def ask(models: list[Path], prompts: list[str], out: Path, temperature: float) -> None:
    """Write both models' answers, their sides drawn by a coin that the reader does not see."""
    coin = random.SystemRandom()
    answers = [answers_of(model, prompts, temperature) for model in models]
    key = [{"prompt": prompt, "left": coin.choice("AB")} for prompt in prompts]
    out.mkdir(parents=True, exist_ok=True)
    pages = []
    for number, (row, a, b) in enumerate(zip(key, *answers, strict=True), 1):
        row |= {"A": a, "B": b}
        left, right = (a, b) if row["left"] == "A" else (b, a)
        pages.append(f"## {number}. {row['prompt']}\n\nleft: {left}\n\nright: {right}\n")
    (out / "pairs.md").write_text("\n".join(pages), encoding="utf-8")
    (out / "key.json").write_text(json.dumps(key, ensure_ascii=False, indent=1), encoding="utf-8")


def answers_of(path: Path, prompts: list[str], temperature: float) -> list[str]:
    """One answer each; "..." at its end where it did not end by itself."""
    model = octuor.load(path)
    params = octuor.SamplingParams(temperature=temperature, seed=1, max_tokens=MAX_ANSWER)
    answers = []
    for prompt in prompts:
        answer = model.chat([{"role": "user", "content": prompt}], params)
        text = "".join(token.text for token in answer).strip().replace("\n", " / ")
        answers.append(text if answer.finish_reason == "stop" else f"{text} ...")
    return answers


def count(folder: Path) -> None:
    """Print who was preferred how often, how sure that is, and every answer."""
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    verdicts = (folder / "verdicts.txt").read_text(encoding="utf-8").split()
    if len(verdicts) != len(key) or not set(verdicts) <= {*SIDES, "same"}:
        raise SystemExit(f"{folder}/verdicts.txt: expected {len(key)} lines of left, right or same")
    better = [winner(row["left"], verdict) for row, verdict in zip(key, verdicts, strict=True)]
    counts = Counter(better)
    decided = counts["A"] + counts["B"]
    print(f"A better {counts['A']}, B better {counts['B']}, alike {counts['same']}")
    if decided:
        low, high = wilson(counts["B"], decided)
        print(f"B preferred in {counts['B'] / decided:.0%} of those decided, 95 % interval {low:.0%} to {high:.0%}")
    for number, (row, name) in enumerate(zip(key, better, strict=True), 1):
        print(f"\n{number}. {row['prompt']} [{name}]\n   A: {row['A']}\n   B: {row['B']}")


def winner(left: str, verdict: str) -> str:
    """ "A", "B" or "same"."""
    if verdict == "same":
        return verdict
    return left if verdict == "left" else "AB".replace(left, "")


if __name__ == "__main__":
    main()
