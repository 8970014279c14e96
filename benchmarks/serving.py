"""Measure Octuor's server beside llama.cpp's: the same synthetic Mixtral in 4 bits, the same requests, one at a time.

    python benchmarks/serving.py --llama-server 'llama=/path/llama-server' \
      --llama-server 'llama_mmap=/path/llama-server --no-repack'

Rows of 1, 4, 8 and 16 streams with prompts of 512 and answers of 128 tokens: for each row, each server is started,
warmed by one request, measured and stopped, and the order turns from round to round. Then, of each server: a prompt of
3,000 tokens that arrives while eight streams answer, and prompts whose first 1,000 tokens come again; and of Octuor,
what a step of 32 sequences costs beside the forward pass.

Models are made under --work where they are not there: ours by `octuor synth` with Mixtral's tokenizer (from
mistral-common), theirs by peers/synthetic_gguf.py (needs the package gguf). Both have random weights of one
distribution and about the same size; ids of prompts are random and tokens are drawn at temperature 1, so that streams
meet all experts. Needs the extras serve and bench. Tables go to stdout and, with the raw rows, to the end of a dated
file in benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "peers"))

import report
import serving_scenarios as scenarios
from engines.base import EngineError, run_child
from servers import LlamaServer, OctuorServer, Server, parse_server, running
from serving_report import Found, shown_arrival, shown_prefix, shown_row, shown_step, text

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = Path(__file__).resolve().parent / "peers"
SCENARIOS = ("answers", "arrival", "prefix", "steps")
STREAMS_OF_ARRIVAL, STREAMS_OF_STEPS = 8, 32
OWN = 24  # tokens of a prompt after a beginning that comes again
SMALL = 512  # tokens of a stream beside what it is asked


def numbers(words: str) -> tuple[int, ...]:
    """1,4,8 as integers."""
    return tuple(int(word) for word in words.split(",") if word)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--llama-server", action="append", default=[], metavar="NAME=PATH FLAGS", help="repeatable")
    add("--octuor-flags", default="--resident", help="of octuor serve; default %(default)s")
    add("--layers", type=int, default=8, help="of Mixtral 8x7B's 32; default %(default)s")
    add("--streams", type=numbers, default=(1, 4, 8, 16), help="default 1,4,8,16")
    add("--prompt", type=int, default=512, help="tokens; default %(default)s")
    add("--answer", type=int, default=128, help="tokens; default %(default)s")
    add("--per-stream", type=int, default=2, help="requests of each stream in a row, 4 in all at least; default 2")
    add("--long", type=int, default=3000, help="tokens of the prompt that arrives; default %(default)s")
    add("--shared", type=int, default=1000, help="tokens of the beginning that comes again; default %(default)s")
    add("--rounds", type=int, default=3, help="default %(default)s")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every server; default: all CPUs")
    add("--scenario", action="append", choices=SCENARIOS, help="repeatable; default: all")
    add("--note", action="append", default=[], help="to be recorded, as how the peer was built; repeatable")
    add("--octuor-model", type=Path, help="a pack in place of the synthetic one")
    add("--gguf", type=Path, help="a GGUF in place of the synthetic one")
    add("--work", type=Path, default=Path.home() / ".cache" / "octuor-peers", help="default %(default)s")
    add("--results", type=Path, help="default: benchmarks/results/DATE_serving.md")
    return parser.parse_args(argv)


def make_servers(args: argparse.Namespace) -> list[Server]:
    """Ours first, with models made where they are not there."""
    models = args.work.expanduser() / "models"
    models.mkdir(parents=True, exist_ok=True)
    pack = args.octuor_model or models / f"8x7b-{args.layers}l-q4.octuor"
    if not pack.exists():
        from octuor.tokenizer import find_mistral_common_tokenizer

        say(f"writing {pack}")
        options = ["--layers", str(args.layers), "--tokenizer", str(find_mistral_common_tokenizer())]
        run_child([sys.executable, "-m", "octuor", "synth", str(pack), *options])
    servers: list[Server] = [OctuorServer(pack, args.threads, shlex.split(args.octuor_flags))]
    gguf = args.gguf or models / f"8x7b-{args.layers}l-Q4_K.gguf"
    if args.llama_server and not gguf.exists():
        say(f"writing {gguf}")
        run_child([sys.executable, "-m", "synthetic_gguf", str(gguf), "--layers", str(args.layers)], cwd=PEERS)
    for spelled in args.llama_server:
        name, words = parse_server(spelled)
        servers.append(LlamaServer(name, words, gguf, args.threads))
    return servers


def measure(args: argparse.Namespace, servers: Sequence[Server], found: Found) -> None:
    """Fill `found`, round by round; servers alternate within each row."""
    wanted = args.scenario or SCENARIOS
    cases = [("answers", n) for n in args.streams] if "answers" in wanted else []
    cases += [(name, 0) for name in SCENARIOS[1:] if name in wanted]
    for n in range(1, args.rounds + 1):
        for case, streams in cases:
            for server in servers if n % 2 else servers[::-1]:
                if case == "steps" and server.name != found.ours:
                    continue
                try:
                    _measure_case(args, server, case, streams, n, found)
                except (EngineError, RuntimeError, subprocess.SubprocessError) as error:
                    found.failures.append(f"round {n} {server.name} {case}: {error}")
                    say(found.failures[-1])


def _measure_case(
    args: argparse.Namespace, server: Server, case: str, streams: int, n: int, found: Found
) -> None:  # fmt: skip
    name = server.name
    if case == "answers":
        with running(server, streams, args.prompt + args.answer + 64) as url:
            row = scenarios.answers(url, streams, args.per_stream, args.prompt, args.answer, seed=n)
        found.answers.append((n, name, row))
        say(f"round {n} {name} x{streams}: {shown_row(row)}")
    elif case == "arrival":
        with running(server, STREAMS_OF_ARRIVAL + 1, args.long + SMALL) as url:
            came = scenarios.arrival(url, STREAMS_OF_ARRIVAL, args.long, seed=n)
        found.arrivals.append((n, name, came))
        say(f"round {n} {name}: {shown_arrival(came)}")
    elif case == "prefix":
        with running(server, 1, args.shared + SMALL) as url:
            seen = scenarios.prefix(url, args.shared, OWN, repeats=5, seed=n)
        found.prefixes.append((n, name, seen))
        say(f"round {n} {name}: {shown_prefix(seen)}")
    else:
        with running(server, STREAMS_OF_STEPS, SMALL) as url:
            cost = scenarios.step_cost(url, STREAMS_OF_STEPS, seed=n)
        found.steps.append((n, name, cost))
        say(f"round {n} {name}: {shown_step(cost)}")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server under way is stopped then too
    try:
        servers = make_servers(args)
        notes = {"machine": report.machine(), "commit": report.commit(), "command": shlex.join(sys.argv)}
        notes |= {server.name: server.describe() for server in servers}
    except EngineError as error:
        sys.exit(str(error))
    if args.note:
        notes["note"] = "; ".join(args.note)
    notes["load generator"] = f"octuor bench serve, aiohttp {version('aiohttp')}, on the same machine"
    found = Found(servers[0].name)
    measure(args, servers, found)
    title = f"{args.layers} layers of Mixtral 8x7B, 4 bits, {args.threads} threads, {args.rounds} rounds"
    section = text(title, notes, found)
    print(section)
    path = args.results or RESULTS / f"{datetime.date.today()}_serving.md"
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if file.tell() else f"# Serving, {datetime.date.today()}\n\n") + section + "\n")
    say(f"appended to {path}")


if __name__ == "__main__":
    main()
