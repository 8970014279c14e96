"""Which experts to keep: misses of several policies on recorded routes, beside the best that could be (Belady).

    python benchmarks/expert_policy.py [MODEL]

Routes are those of prompts of 200 tokens and answers of 200, greedy but for the first token, one after the other over
one pool. A prompt is one pass, an answer's token another; misses are counted for answers' tokens alone, when the pool
has settled. Prompts are random ids for a model without a tokenizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import octuor
from octuor.experts.policy import Usage
from octuor.ops import LayerRouting

N_TALKS, N_PROMPT, N_ANSWER = 6, 200, 200
TEXT = (
    "Once upon a time there was a small house at the edge of a wood. Wer wohnt dort? The old man told me that nobody "
    "had seen it for years. Il était une fois un chien qui aimait courir dans la neige. "
)
SHARES = (0.25, 0.4, 0.5, 0.6, 0.75)
Trace = list[list[NDArray[np.int32]]]  # by pass, by layer: [T, A]
# (layer now, tokens of the pass, last use [L, E], usage) -> [L, E], the highest leaves first
Score = Callable[[int, int, NDArray[np.float64], Usage], NDArray[np.float64]]


class _Log:
    """The experts chosen in one pass, by layer; what on_route is given."""

    def __init__(self) -> None:
        self.routes: list[NDArray[np.int32]] = []

    def __call__(self, layer: int, routing: LayerRouting) -> None:
        assert layer == len(self.routes)
        self.routes.append(routing.experts)


def record(model: octuor.Model) -> Trace:
    """Routes of all passes of some talks."""
    from octuor import model as forward_pass
    from octuor.batch import step
    from octuor.cache import KVCache

    rng, trace = np.random.default_rng(0), []
    for _ in range(N_TALKS):
        if model.checkpoint.tokenizer is None:
            ids = rng.integers(3, model.config.vocab_size, N_PROMPT).tolist()
        else:
            words = TEXT.split()
            rng.shuffle(words)
            ids = model.tokenizer.encode(" ".join(words * 6))[:N_PROMPT]
        cache = KVCache(model.config, model.ops.zeros, N_PROMPT + N_ANSWER + 64)
        sequence, new = cache.new(), ids
        for _ in range(N_ANSWER):
            log = _Log()
            batch = step(cache, [(sequence, new)])
            hidden = forward_pass.forward(model.ops, model.weights, model.config, batch, log)
            trace.append(log.routes)
            logits = model.ops.to_numpy(forward_pass.logits(model.ops, model.weights, hidden[-1:]))[0]
            top = np.argsort(-logits)[:20]
            weights = np.exp((logits[top] - logits[top[0]]) / 0.8)
            new = [int(rng.choice(top, p=weights / weights.sum()))]
    return trace


def misses(trace: Trace, n_held: int, score: Score, half_life: float, n_experts: int) -> float:
    """Misses a token of answers, of a pool of so many experts."""
    n_layers = len(trace[0])
    usage = Usage(n_layers, n_experts, trace[0][0].shape[1], half_life)
    held = np.zeros((n_layers, n_experts), dtype=bool)
    held.reshape(-1)[:n_held] = True
    used = np.zeros((n_layers, n_experts))
    clock = n_missed = n_answers = 0
    for routes in trace:
        is_answer = len(routes[0]) == 1
        n_answers += is_answer
        for layer, chosen in enumerate(routes):
            usage.note(layer, chosen)
            wanted = np.unique(chosen)
            clock += 1
            used[layer, wanted] = clock
            for e in wanted:
                if held[layer, e]:
                    continue
                n_missed += is_answer
                scores = np.where(held, score(layer, len(chosen), used, usage), -np.inf)
                if len(wanted) <= n_held // 2:
                    scores[layer, wanted] = -np.inf
                held.reshape(-1)[scores.argmax()] = False
                held[layer, e] = True
    return n_missed / n_answers


def best(trace: Trace, n_held: int, n_experts: int) -> float:
    """Misses a token where the future is known."""
    n_layers = len(trace[0])
    uses: dict[tuple[int, int], list[int]] = {}
    for at, routes in enumerate(trace):
        for layer, chosen in enumerate(routes):
            for e in np.unique(chosen).tolist():
                uses.setdefault((layer, e), []).append(at * n_layers + layer)
    at_use = dict.fromkeys(uses, 0)
    held = {(n // n_experts, n % n_experts) for n in range(n_held)}
    n_missed = n_answers = 0

    def next_use(key: tuple[int, int], now: int) -> float:
        times = uses.get(key, [])
        i = at_use.get(key, 0)
        while i < len(times) and times[i] <= now:
            i += 1
        at_use[key] = i
        return times[i] if i < len(times) else np.inf

    for at, routes in enumerate(trace):
        n_answers += len(routes[0]) == 1
        for layer, chosen in enumerate(routes):
            wanted = {(layer, e) for e in np.unique(chosen).tolist()}
            now = at * n_layers + layer
            for key in wanted - held:
                n_missed += len(routes[0]) == 1
                spare = held - wanted or held
                held.discard(max(spare, key=lambda other: next_use(other, now)))
                held.add(key)
    return n_missed / n_answers


def lru(layer: int, n_tokens: int, used: NDArray[np.float64], usage: Usage) -> NDArray[np.float64]:
    """Least recently used."""
    del layer, n_tokens, usage
    return -used


def least_frequent(layer: int, n_tokens: int, used: NDArray[np.float64], usage: Usage) -> NDArray[np.float64]:
    """Least frequently used, older uses weighing less."""
    del layer, n_tokens, used
    return -usage.shares


def next_use(layer: int, n_tokens: int, used: NDArray[np.float64], usage: Usage) -> NDArray[np.float64]:
    """The store's own: the expected next use."""
    del used
    return usage.passes_to_use(layer, n_tokens)


def main() -> None:
    model = octuor.load(sys.argv[1] if len(sys.argv) > 1 else None)
    n_experts, n_all = model.config.n_experts, model.config.n_layers * model.config.n_experts
    trace = record(model)
    print(f"{model.checkpoint.source.name}: experts read a token of answers, of {model.config.n_layers} layers x 2")
    print(
        "| held | best | LRU |"
        + "".join(f" {name} {h} |" for h in (8, 16, 32, 64, 128, 256) for name in ("LFU", "ours"))
    )
    for share in SHARES:
        n = int(share * n_all)
        row = [best(trace, n, n_experts), misses(trace, n, lru, 64, n_experts)]
        for half_life in (8, 16, 32, 64, 128, 256):
            row += [misses(trace, n, score, half_life, n_experts) for score in (least_frequent, next_use)]
        print(f"| {share:.0%} | " + " | ".join(f"{value:.2f}" for value in row) + " |", flush=True)


if __name__ == "__main__":
    main()
