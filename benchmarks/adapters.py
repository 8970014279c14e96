"""What adapters cost: answers of eight at once, with an adapter each and with none, in turns; prompts as well.

    python benchmarks/adapters.py [--model MODEL] [--geometry mixtral-8x7b --layers 4] [--rank 16] [--rounds 5]

Adapters are random, of attention, or with --targets of experts and router too. Rows are medians of tokens/s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import octuor
from octuor.api import Model
from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Event, Prompt, Request, Step
from octuor.tools.synth import synth

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from adapter_files import random_adapter

STREAMS = 8


def main() -> None:
    """Measure and print a row for prompts and one for answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="default: the pocket model, without --geometry")
    parser.add_argument("--geometry", default=None)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default="attention", help="of attention,experts,router; default %(default)s")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--answer", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if options.geometry is not None:
            path = Path(folder) / "model.octuor"
            synth(path, options.geometry, "q4", n_layers=options.layers)
        model = octuor.load(path, resident=True)
        for n in range(STREAMS):
            adapter = Path(folder) / f"a{n}"
            random_adapter(adapter, model.config, n, rank=options.rank, targets=options.targets.split(","))
            model.adapters.load(adapter)
        measure(model, options)


def measure(model: Model, options: argparse.Namespace) -> None:
    """Rounds of both kinds, in turns."""
    rng = np.random.default_rng(0)
    rows: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(options.rounds + 1):  # the first one warms up
        prompts = [[1, *rng.integers(300, 30000, options.prompt).tolist()] for _ in range(STREAMS)]
        for is_adapted in (False, True):
            names: list[str | None] = [*model.adapters.names] if is_adapted else [None] * STREAMS
            rows[is_adapted].append(run(model, prompts, names, options.answer))
    found = {
        key: [statistics.median(column) for column in zip(*values[1:], strict=True)] for key, values in rows.items()
    }
    for kind, plain, adapted in zip(("prompts", "answers"), found[False], found[True], strict=True):
        print(f"{kind}: {plain:.1f} tokens/s without adapters, {adapted:.1f} with eight: {adapted / plain:.0%}")


def run(model: Model, prompts: list[list[int]], names: list[str | None], n_tokens: int) -> tuple[float, float]:
    """Tokens/s of prompts, then of answers, all streams together."""
    engine = Engine(model, EngineSettings(max_batch=STREAMS))
    params = octuor.SamplingParams(temperature=0, max_tokens=n_tokens, min_tokens=n_tokens)
    started: list[bool] = [False] * STREAMS
    for stream, (ids, name) in enumerate(zip(prompts, names, strict=True)):

        def heard(event: Event, stream: int = stream) -> None:
            started[stream] = started[stream] or isinstance(event, Step)

        engine.submit(Request(Prompt(ids), params, adapter=name), heard)
    began = time.perf_counter()
    while not all(started):
        engine.step()
    read, before = time.perf_counter(), engine.stats()
    while not engine.is_idle:
        engine.step()
    ended, after = time.perf_counter(), engine.stats()
    answered = after.completion_tokens - before.completion_tokens
    return after.prompt_tokens / (read - began), answered / (ended - read)


if __name__ == "__main__":
    main()
