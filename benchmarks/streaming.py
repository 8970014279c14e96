"""Answers and prompts of a model that memory cannot hold, beside llama.cpp's mmap and the disk, under one limit.

    octuor synth 8x7b-8l-q4.octuor --geometry mixtral-8x7b --layers 8 --format q4
    sudo python benchmarks/streaming.py 8x7b-8l-q4.octuor --share 0.5 \
        --peer path/to/llama-bench --gguf 8x7b-8l-Q4_K.gguf > benchmarks/results/DATE_streaming.md

Needs to make control groups (root). Every measurement is a child in a group whose limit is the share of the file it
reads, page cache included and 2 % on top, with the file dropped from the page cache before. A child reads a prompt,
then a second one, then answers; the first prompt's time begins with opening the file. Ours and theirs alternate.

The bound is the time of reading what had to be read: for a prompt, the experts it met and memory did not hold when it
began (the first: and all other weights); for answers, those that were not in memory when they were met. Bandwidth is
that of direct reads of the same file, at the same depth, between the children.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from memory_group import memory_group

SLACK = 1.02
CHILD_TIMEOUT_S = 1800
PROBE_BYTES = 768 << 20


@dataclass(frozen=True)
class Found:
    """One child's figures. Seconds, tokens a second, and bytes of experts read and met (ours only)."""

    first_s: float
    prompt_s: float
    answer_per_s: float
    peak: int
    more: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="an octuor pack")
    parser.add_argument("--share", type=float, default=0.5, help="of the file, as the limit of memory")
    parser.add_argument("--peer", type=Path, help="llama-bench; default: none")
    parser.add_argument("--gguf", type=Path, help="the peer's file, of the same model and about the same size")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--answer", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print("found: " + json.dumps(run_octuor(**json.loads(args.child))))
        return
    if args.model is None or (args.peer is None) != (args.gguf is None):
        parser.error("expected a pack, and --peer and --gguf together")
    compare(args)


def compare(args: argparse.Namespace) -> None:
    """Measure in turn and print a page of Markdown."""
    ours: list[Found] = []
    peers: list[Found] = []
    rates = [disk_rate(args.model)]
    for turn in range(args.repeats):
        ours.append(measure_octuor(args))
        rates.append(disk_rate(args.model))
        if args.peer is not None:
            peers.append(measure_peer(args))
        print(f"turn {turn + 1} of {args.repeats} done", file=sys.stderr)
    rate = median(rates)
    print(f"# Streaming at {args.share:.0%} in memory, {datetime.date.today()}\n")
    print(f"Command: `python benchmarks/streaming.py {' '.join(map(_shown, sys.argv[1:]))}`, commit {_commit()},")
    print(f"{_cpu()}, {args.threads} threads, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}.\n")
    size = args.model.stat().st_size
    print(
        f"Limit {limit_of(args.model, args.share) / 1e9:.2f} GB (+2 %) of {args.model.name}, {size / 1e9:.2f} GB;",
        end="",
    )
    if args.gguf is not None:
        limit, size = limit_of(args.gguf, args.share), args.gguf.stat().st_size
        print(f" {limit / 1e9:.2f} GB of {args.gguf.name}, {size / 1e9:.2f} GB;", end="")
    print(f"\ndirect reads {rate / 1e9:.2f} GB/s (of {', '.join(f'{r / 1e9:.2f}' for r in rates)}).\n")
    rows = [
        ("first prompt, from opening the file, tokens/s", [args.prompt / f.first_s for f in ours],
         [args.prompt / f.first_s for f in peers], [args.prompt * rate / f.more["first_bytes"] for f in ours]),
        ("next prompt, tokens/s", [args.prompt / f.prompt_s for f in ours], [args.prompt / f.prompt_s for f in peers],
         [args.prompt * rate / max(f.more["prompt_bytes"], 1) for f in ours]),
        ("answer, tokens/s", [f.answer_per_s for f in ours], [f.answer_per_s for f in peers],
         [args.answer * rate / max(f.more["answer_bytes"], 1) for f in ours]),
    ]  # fmt: skip
    print("| what | octuor | llama.cpp, mmap | times | disk's bound | of it |\n|---|---|---|---|---|---|")
    for what, own, others, bounds in rows:
        theirs = f"{median(others):.2f} | {median(own) / median(others):.2f}" if others else " | "
        print(f"| {what} | {median(own):.2f} | {theirs} | {median(bounds):.2f} | {median(own) / median(bounds):.0%} |")
    print("\nRaw, a line a child: seconds to the first prompt's end, of the next, answers in tokens/s, peak bytes\n")
    for name, found in (("octuor", ours), ("llama.cpp", peers)):
        for one in found:
            figures = f"{one.first_s:.2f} {one.prompt_s:.2f} {one.answer_per_s:.3f} {one.peak}"
            print(f"    {name:9} {figures} {json.dumps(one.more)}")


def limit_of(path: Path, share: float) -> int:
    return int(path.stat().st_size * share)


def measure_octuor(args: argparse.Namespace) -> Found:
    limit = limit_of(args.model, args.share)
    given = {
        "model": str(args.model), "limit": limit, "prompt": args.prompt, "answer": args.answer, "threads": args.threads
    }  # fmt: skip
    text, peak = run_limited([sys.executable, __file__, "--child", json.dumps(given)], args.model, limit)
    found = json.loads(next(line for line in text.splitlines() if line.startswith("found: ")).removeprefix("found: "))
    return Found(found.pop("first_s"), found.pop("prompt_s"), found.pop("answer_per_s"), peak, found)


def measure_peer(args: argparse.Namespace) -> Found:
    """llama-bench without its warm-up: two prompts, the first one cold, then two answers.

    Weights stay as they lie in the file: repacked ones, its default, are memory of its own, and it is killed for them.
    """
    command = [str(args.peer), "-m", str(args.gguf), "-p", str(args.prompt), "-n", str(args.answer), "-r", "2",
               "--no-warmup", "-lm", "mmap", "--repack", "0", "-t", str(args.threads), "-o", "json"]  # fmt: skip
    began = time.perf_counter()
    text, peak = run_limited(command, args.gguf, limit_of(args.gguf, args.share))
    took = time.perf_counter() - began
    prompt, answer = json.loads(text[text.index("[\n") :])
    seconds = [ns / 1e9 for ns in (*prompt["samples_ns"], *answer["samples_ns"])]
    load_s = max(0.0, took - sum(seconds))  # opening the file is in our first prompt, so it is in theirs
    return Found(seconds[0] + load_s, seconds[1], args.answer / median(seconds[2:]), peak, {"load_s": round(load_s, 2)})


def run_limited(command: Sequence[str], file: Path, limit: int) -> tuple[str, int]:
    """stdout of a child under the limit, its file not in the page cache; and the group's peak."""
    forget(file)
    with memory_group(int(limit * SLACK)) as group:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, preexec_fn=group.join, timeout=CHILD_TIMEOUT_S
        )
        peak = group.peak()
    if done.returncode:
        sys.exit(f"{command[0]}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout, peak


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(path: Path) -> float:
    """Bytes a second of direct reads at the store's depth, from a place of the file's own choosing each time."""
    from threading import Event

    import numpy as np

    from octuor.checkpoint.memory import huge_memory
    from octuor.experts.layout import Segment
    from octuor.experts.reader import Job, Reader

    size = path.stat().st_size
    n_bytes = min(PROBE_BYTES, size // 4096 * 4096)
    begin = int(np.random.default_rng().integers(0, (size - n_bytes) // 4096 + 1)) * 4096
    memory = huge_memory(n_bytes)
    memory[:] = 0
    reader, done = Reader([path]), Event()
    began = time.perf_counter()
    reader.read(Job([Segment(0, begin, n_bytes, 0)], memory, lambda _: done.set()), urgent=True)
    done.wait()
    took = time.perf_counter() - began
    reader.close()
    return n_bytes / took


def run_octuor(model: str, limit: int, prompt: int, answer: int, threads: int) -> dict[str, Any]:
    """Two prompts and an answer in this process; see Found."""
    import numpy as np

    import octuor

    rng = np.random.default_rng(0)
    began = time.perf_counter()
    loaded = octuor.load(model, memory=limit, threads=threads, context=prompt + answer + 64)
    store, budget = loaded.store, loaded.budget
    assert store is not None
    assert budget is not None
    first = store.stats()
    ids = [rng.integers(3, loaded.config.vocab_size, prompt).tolist() for _ in range(2)]
    only_prompt = octuor.SamplingParams(temperature=0, max_tokens=1)
    for _ in loaded.generate(ids[0], only_prompt):
        pass
    first_s, after_first = time.perf_counter() - began, store.stats()
    met = (loaded.config.n_layers - 1) * loaded.config.n_experts + loaded.config.n_experts_per_token
    expert = sum(budget.shape.sizes) / len(budget.shape.sizes)
    dense = loaded.checkpoint.n_bytes - sum(budget.shape.sizes)
    generation = loaded.generate(ids[1], octuor.SamplingParams(temperature=0, max_tokens=answer + 1))
    next(generation)
    prompt_s, after_prompt = generation.usage.prefill_s, store.stats()
    for _ in generation:
        pass
    last = store.stats()
    held = sum(after_first.held[:-1])
    return {
        "first_s": first_s,
        "prompt_s": prompt_s,
        "answer_per_s": (generation.usage.completion_tokens - 1) / generation.usage.decode_s,
        "first_bytes": int(dense + met * expert),
        "prompt_bytes": int((met - held) * expert),
        "answer_bytes": last.read_bytes - after_prompt.read_bytes,
        "read": [s.read_bytes for s in (first, after_first, after_prompt, last)],
        "wait_s": [round(s.wait_s, 2) for s in (first, after_first, after_prompt, last)],
        "hits": [s.hits for s in (after_first, after_prompt, last)],
        "misses": [s.misses for s in (after_first, after_prompt, last)],
        "chunk": budget.chunk,
        "pool": last.limit_bytes,
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _shown(word: str) -> str:
    return Path(word).name


if __name__ == "__main__":
    main()
