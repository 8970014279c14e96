"""What a run says: the table of medians and ratios, and the raw rows, as Markdown."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from engines.base import Kind, Row

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:'\"`]+/)+")  # of absolute paths
Key = tuple[Kind, int, int]


@dataclass
class Found:
    """Rows by engine and round; the first engine is ours. failures: what an engine said in place of rows."""

    ours: str
    rows: list[tuple[int, str, Row]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def engines(self) -> list[str]:
        return list(dict.fromkeys([self.ours, *(name for _, name, _ in self.rows)]))

    def cases(self) -> list[Key]:
        keys = {(row.kind, row.tokens, row.batch) for _, _, row in self.rows}
        return sorted(keys, key=lambda key: (key[0] != "prompt", key[2], key[1]))

    def rates(self, engine: str, key: Key) -> dict[int, float]:
        """Tokens a second by round."""
        return {
            n: row.tokens_per_s
            for n, name, row in self.rows
            if name == engine and (row.kind, row.tokens, row.batch) == key
        }


def table(found: Found) -> Iterator[str]:
    """A line a row: every engine's median (least-most), and ours over each peer's, the median of the rounds' ratios."""
    peers = [name for name in found.engines() if name != found.ours]
    heads = ["", f"{found.ours} tok/s", *(text for name in peers for text in (f"{name} tok/s", "ratio"))]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for key in found.cases():
        kind, tokens, batch = key
        ours = found.rates(found.ours, key)
        cells = [f"prompt {tokens}" if kind == "prompt" else f"answer {tokens} x {batch}", spread(ours.values())]
        for name in peers:
            theirs = found.rates(name, key)
            ratios = [ours[n] / theirs[n] for n in ours if n in theirs]
            cells += [spread(theirs.values()), spread(ratios, digits=2)]
        yield "| " + " | ".join(cells) + " |"


def spread(values: Iterable[float], *, digits: int = 1) -> str:
    """Median and range of numbers, or a dash."""
    numbers = sorted(values)
    if not numbers:
        return "-"
    middle = f"{median(numbers):.{digits}f}"
    return middle if len(numbers) == 1 else f"{middle} ({numbers[0]:.{digits}f}-{numbers[-1]:.{digits}f})"


def text(title: str, notes: Mapping[str, str], found: Found) -> str:
    """The whole report; paths lose their folders, which say nothing about speed."""
    lines = [f"## {title}", "", *(f"- {name}: {note}" for name, note in notes.items()), "", *table(found), ""]
    for name, failure in found.failures.items():
        lines += [f"{name} gave no rows:", "", "```", failure, "```", ""]
    lines += ["```", f"{'round':>5} {'engine':16} {'kind':7} {'tokens':>6} {'batch':>5} {'tok/s':>10}"]
    for n, name, row in found.rows:
        lines.append(f"{n:5} {name:16} {row.kind:7} {row.tokens:6} {row.batch:5} {row.tokens_per_s:10.2f}")
    return FOLDERS.sub("", "\n".join([*lines, "```", ""]))


def machine() -> str:
    """CPU, cores that this process may use, memory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, {gib:.0f} GiB"


def commit(words: Sequence[str] = ("git", "rev-parse", "--short", "HEAD")) -> str:
    """This checkout's commit, or unknown outside one."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
