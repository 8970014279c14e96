"""Measure Octuor beside other engines: the same synthetic Mixtral, equal threads, round by round in alternating order.

    python benchmarks/peers/run.py --peer llama_cpp --layers 8 --prompt 16,128,512 --batch 1,4,8
    python benchmarks/peers/run.py --peer transformers --format bf16 --layers 2 --batch 1

A peer is installed as a package into an environment of its own under --work, with a model made for it there. Programs
that exist only as source join the same run by hand: --llama-bench and --llama-batched-bench take `NAME=PATH FLAGS`.

    --llama-bench 'other=/path/llama-bench -mmp 0' --llama-batched-bench 'other=/path/llama-batched-bench --no-mmap'

They share the GGUF of llama_cpp, or have their own after -m.

The table goes to stdout and, with the raw rows, to the end of a dated file in benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import report
from engines.base import Engine, EngineError, Request, Row, Subject
from engines.llama_bench import LlamaBench, parse_program, take_model
from engines.llama_cpp import gguf_file
from engines.octuor import Octuor
from engines.registry import PEERS

RESULTS = Path(__file__).resolve().parents[1] / "results"
LARGER = 1.03  # a peer's file above so many of our bytes is not an equal


def numbers(words: str) -> tuple[int, ...]:
    """16,128 as integers."""
    return tuple(int(word) for word in words.split(",") if word)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peer", action="append", default=[], choices=sorted(PEERS), help="repeatable")
    add("--layers", type=int, default=8, help="of Mixtral 8x7B's 32; default %(default)s")
    add("--format", default="q4", help="Octuor's number format; peers take what is nearest; default %(default)s")
    add("--gguf-type", metavar="TYPE[+HEAD]", help="ggml's format in place of the nearest: IQ4_XS; Q4_K+Q4_K")
    add("--gguf", type=Path, help="a GGUF of the same geometry to use instead of writing one")
    add("--prompt", type=numbers, default=(16, 128, 512), help="lengths; default 16,128,512")
    add("--answer", type=int, default=64, help="tokens of each answer; default %(default)s")
    add("--batch", type=numbers, default=(1,), help="answers at once; default 1")
    add("--rounds", type=int, default=3, help="default %(default)s")
    add("--by-row", action="store_true", help="load and measure every row on its own, for a noisy machine")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine; default: all CPUs")
    add("--isa", help="force Octuor's instruction set")
    add("--llama-bench", action="append", default=[], metavar="NAME=PATH FLAGS", help="repeatable")
    add("--llama-batched-bench", action="append", default=[], metavar="NAME=PATH FLAGS", help="repeatable")
    add("--venv", action="append", default=[], metavar="PEER=PATH", help="an environment that has the peer already")
    add("--work", type=Path, default=Path.home() / ".cache" / "octuor-peers", help="default %(default)s")
    add("--results", type=Path, help="default: benchmarks/results/DATE_peers.md")
    args = parser.parse_args(argv)
    if not args.peer and not args.llama_bench:
        parser.error("expected at least one --peer or --llama-bench")
    return args


def make_peers(args: argparse.Namespace, subject: Subject) -> list[Engine]:
    """Engines beside ours, in the order of the command line."""
    environments = dict(word.split("=", 1) for word in args.venv)
    peers: list[Engine] = []
    for name in dict.fromkeys(args.peer):
        path = Path(environments.get(name, args.work / "venvs" / name)).expanduser()
        peers.append(PEERS[name](path, args.gguf_type, args.gguf))
    batched = dict(parse_program(text) for text in args.llama_batched_bench)
    for text in args.llama_bench:
        name, words = parse_program(text)
        named, words = take_model(words)
        gguf = named or args.gguf or gguf_file(subject, args.gguf_type)
        peers.append(LlamaBench(name, words, batched.get(name), gguf))
    return peers


def ready(engine: Engine, subject: Subject, found: report.Found, notes: dict[str, str], sizes: dict[str, int]) -> bool:
    """Install and prepare an engine, note what it is and its bytes; False, with the failure noted, if that fails."""
    try:
        say(f"{engine.name}: install, prepare")
        engine.install()
        sizes[engine.name] = engine.prepare(subject)
        notes[engine.name] = engine.describe() + f", {sizes[engine.name] / 1e9:.2f} GB" * bool(sizes[engine.name])
    except EngineError as error:
        found.failures[engine.name] = str(error)
        say(str(error))
        return False
    return True


def note_sizes(ours: int, sizes: dict[str, int], notes: dict[str, str]) -> None:
    """Say which peers' weights are larger than ours by more than they may be for an equal comparison."""
    for name, n_bytes in sizes.items():
        if n_bytes and ours:
            ratio = n_bytes / ours
            notes[name] += f", {ratio:.3f} of our bytes" + (" (too large to be an equal)" if ratio > LARGER else "")


def run(engines: Sequence[Engine], request: Request, rounds: int, by_row: bool, found: report.Found) -> None:
    """Fill `found`; engines alternate within each request, and their order from round to round."""
    for n in range(rounds):
        for part in request.split() if by_row else (request,):
            for engine in engines if n % 2 == 0 else engines[::-1]:
                if engine.name in found.failures:
                    continue
                try:
                    rows = engine.measure(part)
                except EngineError as error:
                    found.failures[engine.name] = str(error)
                    say(str(error))
                    continue
                found.rows += [(n + 1, engine.name, row) for row in rows]
                say(f"round {n + 1} {engine.name}: " + ", ".join(map(shown, rows)))


def shown(row: Row) -> str:
    """A row in few letters."""
    return f"{row.kind[0]}{row.tokens}{f'x{row.batch}' if row.kind == 'answer' else ''} {row.tokens_per_s:.1f}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    args = parse()
    subject = Subject(args.layers, args.format, args.threads, args.work.expanduser())
    subject.work.mkdir(parents=True, exist_ok=True)
    ours = Octuor(args.isa)
    found, notes = report.Found(ours.name), {"machine": report.machine(), "commit": report.commit()}
    try:
        peers = make_peers(args, subject)
    except EngineError as error:
        sys.exit(str(error))
    sizes: dict[str, int] = {}
    engines = [engine for engine in [ours, *peers] if ready(engine, subject, found, notes, sizes)]
    run(engines, Request(args.prompt, args.answer, args.batch), args.rounds, args.by_row, found)
    notes[ours.name] = ours.describe()
    note_sizes(ours.n_bytes, sizes, notes)
    title = f"{args.layers} layers of Mixtral 8x7B, {args.format}, {args.threads} threads, {args.rounds} rounds"
    text = report.text(title, notes, found)
    print("\n".join(report.table(found)))
    path = args.results or RESULTS / f"{datetime.date.today()}_peers.md"
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if file.tell() else f"# Peers, {datetime.date.today()}\n\n") + text + "\n")
    say(f"appended to {path}")


if __name__ == "__main__":
    main()
