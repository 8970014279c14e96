"""Many streams for minutes, some of them left early: does the server give back all it took, and say the same as ever?

    python benchmarks/soak.py [--minutes 5] [--streams 32] [MODEL]

A server is started with a cache that is too small for all streams at once. A list of questions of different lengths
(greedy, drawn with a seed, held to a schema; whole and streamed) is asked one by one, and then over and over by all
streams together, of which some go away in the middle. In the end each text has to be the one of its question alone,
and pages, file descriptors and memory what they were. Rows go to stderr, a report in JSON to stdout; exit status 1
where something is not as it should be. Needs the extras serve and test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import httpx

STORY = "the little dog ran over a green hill and found her red ball near an old tree where birds sang all day"
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "name": {"type": "string", "maxLength": 12}},
    "required": ["kind", "name"],
    "additionalProperties": False,
}
ROWS_EVERY_S = 10.0
SETTLES_WITHIN_S = 60.0
SPARE_RSS_MB = 8.0  # what an allocator may keep, whatever the length of a run


@dataclass(frozen=True)
class Question:
    """A request, and whether its answer is streamed."""

    body: dict[str, Any]
    streams: bool


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    at_s: float
    rss_mb: float
    fds: int
    threads: int
    running: int
    pages_held_share: float
    preemptions: int
    answered: int
    left: int


@dataclass
class Tally:
    """What has become of all requests. errors: the first few, in words."""

    answered: int = 0
    left: int = 0
    tokens: int = 0
    n_errors: int = 0
    errors: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.n_errors += 1
        if len(self.errors) < 20:
            self.errors.append(what)


def questions(n: int, seed: int) -> list[Question]:
    """Prompts of 10 to 400 tokens, half with a beginning that others share; answers of up to 4 to 200 tokens."""
    rng = random.Random(seed)
    found = []
    for index in range(n):
        text = " ".join(rng.choices(STORY.split(), k=rng.choice([5, 20, 60, 150, 300])))
        messages = [{"role": "user", "content": text}]
        if index % 2:
            messages.insert(0, {"role": "system", "content": f"Tell a story. {STORY}. {STORY}."})
        length = rng.choice([4, 30, 80, 200])
        body: dict[str, Any] = {"model": "mistral-small", "messages": messages, "max_tokens": length}
        if index % 3 == 1:
            body |= {"temperature": 0.9, "top_p": 0.95, "seed": index}
        else:
            body["temperature"] = 0
        if index % 8 == 0:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}
        else:
            body["min_tokens"] = length // 2  # small models end early
        found.append(Question(body, streams=index % 4 != 3))
    return found


# ---- one request ---------------------------------------------------------------------------------


async def ask(client: httpx.AsyncClient, question: Question, leave_after: int | None = None) -> tuple[str, int] | None:
    """Text and tokens of the answer; None where we left.

    leave_after  events of a stream, or hundredths of a second of a whole answer, after which to go away
    """
    if not question.streams:
        whole = client.post("/v1/chat/completions", json=question.body)
        try:
            answer = await (whole if leave_after is None else asyncio.wait_for(whole, leave_after / 100))
        except TimeoutError:
            return None
        body = answer.raise_for_status().json()
        return body["choices"][0]["message"]["content"], body["usage"]["completion_tokens"]
    text, tokens, n_events = "", 0, 0
    async with client.stream("POST", "/v1/chat/completions", json={**question.body, "stream": True}) as stream:
        async for line in stream.raise_for_status().aiter_lines():
            if line == "data: [DONE]":
                return text, tokens
            if line.startswith("data: "):
                if leave_after is not None and n_events >= leave_after:
                    return None
                chunk = json.loads(line.removeprefix("data: "))
                text += chunk["choices"][0]["delta"].get("content") or ""
                tokens = chunk["usage"]["completion_tokens"] if chunk.get("usage") else tokens
                n_events += 1
    raise httpx.ReadError("the stream has no end")


async def keep_asking(
    client: httpx.AsyncClient, known: Sequence[tuple[Question, str]], args: argparse.Namespace, n: int, tally: Tally
) -> None:  # fmt: skip
    """One stream: question after question until the time is over."""
    rng = random.Random(args.seed + n)
    until = time.monotonic() + 60 * args.minutes
    while time.monotonic() < until:
        question, expected = rng.choice(known)
        leave_after = rng.randrange(30) if rng.random() < args.leave else None
        try:
            found = await ask(client, question, leave_after)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            tally.fail(f"{type(error).__name__}: {error}")
            continue
        if found is None:
            tally.left += 1
            continue
        text, tokens = found
        tally.answered += 1
        tally.tokens += tokens
        if text != expected:
            tally.fail(f"expected {expected!r}, found {text!r}")


# ---- the server ----------------------------------------------------------------------------------


@contextmanager
def server(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server's address and process; its log is folder/log."""
    config = folder / "octuor.toml"
    path = f"path = {json.dumps(args.model)}\n" if args.model else ""
    config.write_text(f"[[models]]\n{path}cache_tokens = {args.cache_tokens}\n")
    command = [sys.executable, "-m", "octuor", "serve", "--config", str(config), "--port", "0"]
    command += ["--max-batch", str(args.streams)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "OCTUOR_HOME": str(folder)}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line:
            raise SystemExit(f"octuor serve did not start: {(folder / 'log').read_text()}")
        yield line.split()[-1], process
    finally:
        process.kill()
        process.wait()


async def look(client: httpx.AsyncClient, process: subprocess.Popen[bytes], began: float, tally: Tally) -> Sample:
    """The server as it is now."""
    metrics = {}
    for line in (await client.get("/metrics")).raise_for_status().text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            metrics[name.partition("{")[0]] = float(value)
    folder = Path("/proc") / str(process.pid)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Sample(
        at_s=round(time.monotonic() - began, 1),
        rss_mb=round(int(status["VmRSS"].split()[0]) * 1024 / 1e6, 1),
        fds=len(list((folder / "fd").iterdir())),
        threads=int(status["Threads"]),
        running=int(metrics["octuor_num_requests_running"] + metrics["octuor_num_requests_waiting"]),
        pages_held_share=round(metrics["octuor_kv_cache_usage_perc"], 4),
        preemptions=int(metrics["octuor_num_preemptions_total"]),
        answered=tally.answered,
        left=tally.left,
    )


async def settled(url: str, process: subprocess.Popen[bytes], began: float, tally: Tally, fds: int) -> Sample:
    """The server once nothing runs and no more files are open than `fds`, or as it is after a minute."""
    until = time.monotonic() + SETTLES_WITHIN_S
    while True:
        async with httpx.AsyncClient(base_url=url) as client:
            sample = await look(client, process, began, tally)
        if (sample.running == 0 and sample.fds <= fds) or time.monotonic() > until:
            return sample
        await asyncio.sleep(0.1)


# ---- all of it -----------------------------------------------------------------------------------


async def soak(url: str, process: subprocess.Popen[bytes], args: argparse.Namespace) -> dict[str, Any]:
    """The report."""
    tally, began, rows = Tally(), time.monotonic(), []
    limits = httpx.Limits(max_connections=args.streams + 1)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        known = []
        for question in questions(args.questions, args.seed):
            found = await ask(client, question)
            assert found is not None
            known.append((question, found[0]))
    start = await settled(url, process, began, tally, sys.maxsize)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        began = time.monotonic()
        streams = asyncio.gather(*(keep_asking(client, known, args, n, tally) for n in range(args.streams)))
        while not streams.done():
            await asyncio.wait([streams], timeout=ROWS_EVERY_S)
            rows.append(await look(client, process, began, tally))
            print(shown(rows[-1]), file=sys.stderr, flush=True)
        await streams
    seconds = time.monotonic() - began
    end = await settled(url, process, began, tally, start.fds)
    report = {
        "minutes": args.minutes, "streams": args.streams, "questions": args.questions, "seconds": round(seconds, 1),
        "answered": tally.answered, "left": tally.left, "tokens": tally.tokens,
        "tokens_per_s": round(tally.tokens / seconds, 1), "n_errors": tally.n_errors, "errors": tally.errors,
        "start": asdict(start), "end": asdict(end), "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    return report | {"complaints": complaints(tally, start, end, rows)}


def complaints(tally: Tally, start: Sample, end: Sample, rows: Sequence[Sample]) -> list[str]:
    """What is not as it should be."""
    found = [f"{tally.n_errors} requests failed or said something else"] if tally.n_errors else []
    if end.running or end.pages_held_share:
        found.append(f"{end.running} requests and {end.pages_held_share:.1%} of the pages are still held")
    if end.fds > start.fds:
        found.append(f"file descriptors: {start.fds} at the start, {end.fds} at the end")
    if tally.left == 0 or tally.answered == 0:
        found.append("too short: nobody left, or nobody stayed")
    half = len(rows) // 2
    if half >= 2:  # the first half is for caches and allocators to fill
        middle, late = (mean(row.rss_mb for row in part) for part in (rows[half : -half // 2], rows[-half // 2 :]))
        if late > middle + SPARE_RSS_MB:
            found.append(f"memory grows: {middle:.1f} MB in the third quarter, {late:.1f} MB in the last")
    return found


def shown(row: Sample) -> str:
    """A row for people."""
    return (
        f"{row.at_s:6.0f} s  {row.answered:6} answered  {row.left:5} left  {row.running:3} running  "
        f"{row.pages_held_share:6.1%} of pages  {row.rss_mb:7.1f} MB  {row.fds:3} files  {row.threads:3} threads"
    )


def main() -> None:
    """Start, soak, stop, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="", help="a pack, a folder or a Hub id; default: the pocket model")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--questions", type=int, default=64, help="different ones; default %(default)s")
    parser.add_argument("--leave", type=float, default=0.3, help="share of requests that are left; default %(default)s")
    parser.add_argument("--cache-tokens", type=int, default=8192, help="of all streams together; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server(args, Path(name)) as (url, process):
        report = asyncio.run(soak(url, process, args))
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(60)) != 0:
            report["complaints"].append(f"the server ended with {status}")
        if "Traceback" in (log := (Path(name) / "log").read_text()):
            report["complaints"].append("a traceback in the log: " + log[log.index("Traceback") :][:2000])
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["complaints"] else 0)


if __name__ == "__main__":
    main()
