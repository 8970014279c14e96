"""How good the pocket model is: held-out loss, expert loads, and how its answers end.

    python benchmarks/pocket.py DIR [--model PACK] [--samples N]

DIR/pretrain_valid.jsonl[.xz] has rows of "text" and DIR/chat_valid.jsonl[.xz] rows of "messages", each with "lang".
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import octuor
from octuor.logit_filters import log_softmax
from octuor.ops import LayerRouting
from octuor.train.data import encode_document, find_file, read_rows

N_PROMPTS = 100
MAX_ANSWER = 256
LONGEST_PERIOD = 40  # tokens
ROUNDS = 4  # a period this many times in a row at the end is a loop


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=600, help="held-out rows of each kind, at most")
    parser.add_argument("--samples", type=int, default=10)
    options = parser.parse_args()
    model = octuor.load(options.model)
    loads = np.zeros((model.config.n_layers, model.config.n_experts))
    print("held-out loss, nats a token (perplexity) | tokens")
    for name in ("pretrain_valid", "chat_valid"):
        rows = shuffled(find_file(options.data, name))[: options.rows]
        for lang, (loss, count) in sorted(held_out_loss(model, rows, loads).items()):
            print(f"  {name:15} {lang:7} {loss / count:6.3f} ({np.exp(loss / count):7.1f}) | {count}")
    print("expert loads, % of choices, by layer")
    for layer, counts in enumerate(loads):
        print(f"  {layer}: " + " ".join(f"{100 * share:5.1f}" for share in counts / counts.sum()))
    print(f"least loaded: {100 * (loads / loads.sum(1, keepdims=True)).min():.1f} %")
    answers = list(answer_prompts(model, shuffled(find_file(options.data, "chat_valid"))))
    ended = sum(reason == "stop" for _, _, reason, _ in answers)
    looped = sum(loops(ids) for _, _, _, ids in answers)
    print(f"{len(answers)} held-out prompts at temperature 0.7: {ended} end by themselves, {looped} loop")
    for prompt, answer, reason, _ in answers[: options.samples]:
        print(f"---\n> {prompt}\n{answer} [{reason}]")


def shuffled(path: Path) -> list[dict[str, Any]]:
    """All rows of a file in an order that is the same each time."""
    rows = list(read_rows(path))
    random.Random(0).shuffle(rows)
    return rows


def held_out_loss(model: octuor.Model, rows: list[dict[str, Any]], loads: np.ndarray) -> dict[str, tuple[float, int]]:
    """Summed loss and number of counted tokens by language; adds each expert's choices to loads [n_layers, E]."""

    def watch(layer: int, routing: LayerRouting) -> None:
        loads[layer] += np.bincount(np.asarray(routing.experts).reshape(-1), minlength=loads.shape[1])

    sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for row in rows:
        ids, learned = encode_document(model.tokenizer, row)
        ids, counted = ids[: model.config.max_seq_len], np.array(learned[1 : model.config.max_seq_len], dtype=bool)
        logits = model.logits(ids[:-1], on_route=watch)
        losses = np.array([-log_softmax(each)[target] for each, target in zip(logits, ids[1:], strict=True)])
        loss, count = sums[row["lang"]]
        sums[row["lang"]] = loss + float(losses[counted].sum()), count + int(counted.sum())
    return {lang: pair for lang, pair in sums.items() if pair[1]}


def answer_prompts(model: octuor.Model, rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str | None, list[int]]]:
    """Prompt, answer, finish reason and ids for the first turn of N_PROMPTS talks."""
    for number, row in enumerate(rows[:N_PROMPTS]):
        first = next(i for i, message in enumerate(row["messages"]) if message["role"] == "assistant")
        params = octuor.SamplingParams(temperature=0.7, top_p=0.95, seed=number, max_tokens=MAX_ANSWER)
        generation = model.chat(row["messages"][:first], params)
        ids = [token.id for token in generation]
        yield row["messages"][first - 1]["content"], generation.text, generation.finish_reason, ids


def loops(ids: list[int]) -> bool:
    """Whether the end of an answer is one stretch of tokens over and over."""
    return any(
        len(ids) >= ROUNDS * period and ids[-ROUNDS * period :] == ids[-period:] * ROUNDS
        for period in range(1, LONGEST_PERIOD + 1)
    )


if __name__ == "__main__":
    main()
