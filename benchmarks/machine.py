"""What page size, threads and waiting cost on this machine, with the experts of a model.

    octuor synth two.octuor --layers 2
    python benchmarks/machine.py two.octuor [--threads N] [--rounds N]

1. Pages: experts for one token, cold (each round asks for others), from a mapping in 4 KiB pages, a mapping in huge
   pages, and a copy in memory of our own. Turns are taken in random order; GB/s by the clock, and a CPU second.
2. Waiting: tokens a second and a CPU second with one thread and with N, and how often a thread went to sleep for want
   of work: more than a few times a token means that waiting threads give up between two kernels.
3. Idle: the share of a core that a loaded model takes when nobody asks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

import octuor
from octuor.checkpoint import open_checkpoint
from octuor.checkpoint.memory import HUGE_PAGE, MADV_HUGEPAGE, advise, populate, read_resident
from octuor.ops import LayerRouting
from octuor.ops.native import NativeOps
from octuor.weights import Weights

MADV_NOHUGEPAGE = 15
TASKS = Path("/proc/self/task")


def huge_share(path: Path) -> float:
    """Share of this process's mappings of a file that are in huge pages."""
    mapped = huge = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("Rss:"):
            mapped += int(line.split()[1])
        elif is_ours and line.startswith("FilePmdMapped:"):
            huge += int(line.split()[1])
    return huge / mapped if mapped else 0.0


def pages(path: Path, threads: int, rounds: int) -> None:
    """The first table."""
    ops = NativeOps(threads=threads)
    models: dict[str, Weights] = {}
    for kind in ("mapped, 4 KiB pages", "mapped, huge pages", "own memory"):
        checkpoint = open_checkpoint(path)
        if kind == "own memory":
            read_resident(checkpoint.files)
        for file in checkpoint.files:
            advise(file.bytes, MADV_HUGEPAGE if kind == "mapped, huge pages" else MADV_NOHUGEPAGE)
            populate(file.bytes)
        if kind == "mapped, huge pages":
            print(f"mapped in huge pages of {HUGE_PAGE >> 20} MiB: {huge_share(path.resolve()):.0%} of both mappings")
        models[kind] = checkpoint.weights(ops.put)
    config = checkpoint.config
    n_bytes = 2 * sum(checkpoint.get(f"layers.0.experts.0.{part}").data.nbytes for part in ("gate", "up", "down"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, config.dim), dtype=np.float32)
    half, no_logits = np.full((1, 2), 0.5, np.float32), np.zeros((1, config.n_experts), np.float32)
    rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in models}
    for _ in range(rounds):
        routings = [rng.choice(config.n_experts, 2, replace=False).astype(np.int32)[None] for _ in range(4)]
        for kind in rng.permutation(list(models)):
            began, cpu = time.perf_counter(), time.process_time()
            for n, experts in enumerate(routings):
                ops.moe(x, LayerRouting(experts, half, no_logits), models[kind].layers[n % config.n_layers].experts)
            gb = len(routings) * n_bytes / 1e9
            rates[kind].append((gb / (time.perf_counter() - began), gb / (time.process_time() - cpu)))
    plain = rates["mapped, 4 KiB pages"]
    for kind, found in rates.items():
        ratio = median(ours[1] / base[1] for ours, base in zip(found, plain, strict=True))
        clock, per_cpu = median(rate for rate, _ in found), median(rate for _, rate in found)
        print(f"{kind:20} {clock:6.1f} GB/s, {per_cpu:6.1f} GB a CPU second, {ratio:.3f} of 4 KiB's")


def sleeps() -> int:
    """Times that a thread of this process has gone to sleep by itself."""
    total = 0
    for task in TASKS.iterdir():
        status = (task / "status").read_text()
        total += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def waiting(path: Path, counts: Sequence[int], rounds: int, n_tokens: int = 4) -> None:
    """The second table."""
    params = octuor.SamplingParams(temperature=0, max_tokens=(rounds + 1) * n_tokens)
    answers = {n: octuor.load(path, threads=n, context=1024).generate([1, 733, 16289], params) for n in counts}
    found: dict[int, list[tuple[float, float, float]]] = {n: [] for n in counts}
    for answer in answers.values():
        next(answer)
    for _ in range(rounds):
        for n, answer in answers.items():
            slept, began, cpu = sleeps(), time.perf_counter(), time.process_time()
            for _ in range(n_tokens):
                next(answer)
            took, used = time.perf_counter() - began, time.process_time() - cpu
            found[n].append((n_tokens / took, n_tokens / used, (sleeps() - slept) / n_tokens))
    for n, rows in found.items():
        speed, per_cpu, slept_a_token = (median(row[i] for row in rows) for i in range(3))
        print(f"{n:2} threads {speed:6.2f} tokens/s, {per_cpu:6.2f} a CPU second, {slept_a_token:.2f} sleeps a token")


def idle(path: Path, seconds: float) -> None:
    """The last line."""
    answer = octuor.load(path, context=64).generate([1, 733], octuor.SamplingParams(max_tokens=4))
    assert len(list(answer)) == 4
    began, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    share = (time.process_time() - cpu) / (time.perf_counter() - began)
    print(f"idle for {seconds:g} s: {share:.3%} of a core")


def main() -> None:
    """Run the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    threads: int = options.threads or NativeOps().threads
    parts: list[Callable[[], None]] = [
        lambda: idle(options.model, 4.0),
        lambda: waiting(options.model, sorted({1, threads}), options.rounds),
        lambda: pages(options.model, threads, options.rounds),
    ]
    for part in parts:
        part()
        print(flush=True)


if __name__ == "__main__":
    main()
