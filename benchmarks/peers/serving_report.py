"""What a run of serving.py says: tables of medians and ratios, and the raw rows, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from report import FOLDERS, spread
from serving_scenarios import Arrival, Prefix, StepCost, Waits


@dataclass
class Found:
    """All that was measured, by round and server; ours: the first server."""

    ours: str
    answers: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    arrivals: list[tuple[int, str, Arrival]] = field(default_factory=list)
    prefixes: list[tuple[int, str, Prefix]] = field(default_factory=list)
    steps: list[tuple[int, str, StepCost]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def shown_row(row: dict[str, Any]) -> str:
    """A load test's row in one line."""
    first, gap, client = row["first_token_s"], row["inter_token_s"], row["client"]
    return (
        f"answers {row['answer_tokens_per_s']:.2f} tok/s, requests {row['requests_per_s']:.4f}/s, "
        f"a stream {row['stream_tokens_per_s']['p50']:.2f} tok/s, "
        f"first token p50 {first['p50']:.3f} p95 {first['p95']:.3f} p99 {first['p99']:.3f} s, "
        f"gap p50 {1e3 * gap['p50']:.1f} p95 {1e3 * gap['p95']:.1f} p99 {1e3 * gap['p99']:.1f} ms, "
        f"{row['seconds']:.1f} s, client {client['cpu_share']:.3f} of a core, "
        f"late p99 {1e3 * client['late_s']['p99']:.1f} ms"
    )


def shown_waits(waits: Waits) -> str:
    """Waits in few words."""
    return (
        f"p50 {1e3 * waits.p50_s:.1f} p99 {1e3 * waits.p99_s:.1f} most {1e3 * waits.most_s:.1f} ms of {waits.n}, "
        f"p99/p50 {waits.p99_s / waits.p50_s:.2f}"
    )


def shown_arrival(came: Arrival) -> str:
    """A long prompt's arrival in one line."""
    parts = ", ".join(f"{part}: {shown_waits(getattr(came, part))}" for part in ("before", "during", "all"))
    return f"long prompt's first token {came.first_token_s:.2f} s; gaps {parts}"


def shown_prefix(seen: Prefix) -> str:
    """A beginning that came again, in one line."""
    cold, warm = (" ".join(f"{each:.3f}" for each in times) for times in (seen.cold_s, seen.warm_s))
    return f"first token new {cold} s, again {warm} s, ratio {seen.ratio:.1f}, cached {seen.cached_tokens}"


def shown_step(cost: StepCost) -> str:
    """A step's cost in one line."""
    return (
        f"{cost.streams} sequences, {cost.steps} steps: overhead {cost.overhead_ms:.3f} ms, "
        f"forward {cost.forward_ms:.1f} ms, choosing {cost.choose_ms:.2f} ms a step"
    )


def answer_table(found: Found) -> Iterator[str]:
    """A line a number of streams: medians (least-most) over rounds, and ours over each peer's, round by round."""
    names = list(dict.fromkeys([found.ours, *(name for _, name, _ in found.answers)]))
    peers = names[1:]
    heads = ["streams", *(f"{name} answers tok/s" for name in names), *(f"ratio to {name}" for name in peers)]
    heads += [f"{name} first token p50 s" for name in names]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for streams in sorted({row["concurrency"] for _, _, row in found.answers}):
        rate = {name: _by_round(found, name, streams, lambda row: row["answer_tokens_per_s"]) for name in names}
        first = {name: _by_round(found, name, streams, lambda row: row["first_token_s"]["p50"]) for name in names}
        cells = [spread(rate[name].values()) for name in names]
        for name in peers:
            ratios = [rate[found.ours][n] / rate[name][n] for n in rate[found.ours] if n in rate[name]]
            cells.append(spread(ratios, digits=2))
        cells += [spread(first[name].values(), digits=2) for name in names]
        yield f"| {streams} | " + " | ".join(cells) + " |"


def _by_round(found: Found, name: str, streams: int, figure: Callable[[dict[str, Any]], float]) -> dict[int, float]:
    return {n: figure(row) for n, who, row in found.answers if who == name and row["concurrency"] == streams}


def summary(found: Found) -> Iterator[str]:
    """Medians over rounds of the other scenarios, a line a server."""
    for name in dict.fromkeys(name for _, name, _ in found.arrivals):
        own = [came for _, who, came in found.arrivals if who == name]
        for part in ("before", "during", "all"):
            waits = [getattr(came, part) for came in own]
            p50, p99 = (1e3 * median(getattr(each, key) for each in waits) for key in ("p50_s", "p99_s"))
            ratio = spread([each.p99_s / each.p50_s for each in waits], digits=2)
            yield f"- {name}, gaps {part}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99/p50 {ratio}"
        yield f"- {name}, the long prompt's first token: {spread([came.first_token_s for came in own])} s"
    for name in dict.fromkeys(name for _, name, _ in found.prefixes):
        seen = [each for _, who, each in found.prefixes if who == name]
        cold, warm = (median(s for each in seen for s in getattr(each, key)) for key in ("cold_s", "warm_s"))
        ratio = spread([each.ratio for each in seen])
        yield f"- {name}, first token with a beginning that is new {cold:.3f} s, again {warm:.3f} s, ratio {ratio}"
    for name in dict.fromkeys(name for _, name, _ in found.steps):
        costs = [each for _, who, each in found.steps if who == name]
        overhead, forward, choose = (
            spread([getattr(each, f"{part}_ms") for each in costs], digits=3)
            for part in ("overhead", "forward", "choose")
        )
        each = f"overhead {overhead} ms, forward {forward} ms, choosing {choose} ms"
        yield f"- {name}, a step of {costs[0].streams} sequences: {each}"


def text(title: str, notes: Mapping[str, str], found: Found) -> str:
    """The whole section; paths lose their folders, which say nothing about speed."""
    lines = [f"## {title}", "", *(f"- {name}: {note}" for name, note in notes.items()), ""]
    if found.answers:
        lines += [*answer_table(found), ""]
    lines += [*summary(found), "", "```"]
    lines += [f"round {n} {name} x{row['concurrency']}: {shown_row(row)}" for n, name, row in found.answers]
    lines += [f"round {n} {name} arrival: {shown_arrival(came)}" for n, name, came in found.arrivals]
    lines += [f"round {n} {name} prefix: {shown_prefix(seen)}" for n, name, seen in found.prefixes]
    lines += [f"round {n} {name} steps: {shown_step(cost)}" for n, name, cost in found.steps]
    lines += [*found.failures, "```", ""]
    return FOLDERS.sub("", "\n".join(lines))
