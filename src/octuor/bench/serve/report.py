"""A load test's figures as JSON values. Only whole answers count; what failed or was cut is counted beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octuor.bench.serve.answer import Answer, read_answer
from octuor.bench.serve.run import Found, Load, Overhead

PERCENTILES = (50, 95, 99)
SERVER, PIECES, BOTH = "usage", "pieces", "usage and pieces"  # who counted an answer's tokens


@dataclass(frozen=True)
class Row:
    """A row with its answers read. answers: in the order of sending, all of them."""

    load: Load
    answers: tuple[Answer, ...]
    overhead: Overhead

    @property
    def whole(self) -> list[Answer]:
        """Those that came to their end."""
        return [answer for answer in self.answers if answer.is_whole]

    def first_token_s(self) -> list[float]:
        """From sending to the first text, one an answer that has any."""
        return _there(answer.first_token_s for answer in self.whole)

    def gaps_s(self) -> list[float]:
        """Between pieces of text of one answer, over all answers."""
        return [gap for answer in self.whole for gap in answer.gaps_s]


def read_row(found: Found) -> Row:
    """Read what came."""
    return Row(found.load, tuple(map(read_answer, found.exchanges)), found.overhead)


def row_json(row: Row) -> dict[str, Any]:
    """One row of the report.

    seconds                   from the first request to the end of the last whole answer; rates are over these
    prompt_tokens, answer_tokens, cached_tokens   of whole answers, in all; None: not known
    counted_by                who counted answer_tokens: the server ("usage"), or we, a piece of text as one ("pieces")
    stream_tokens_per_s       one figure an answer: its tokens after the first over their time
    first_token_s, inter_token_s, per_token_s, request_s   see latency in docs/benchmarking-servers.md
    """
    whole = row.whole
    seconds = max(a.ended_s for a in whole) - min(a.sent_s for a in row.answers) if whole else 0.0
    prompt_tokens = _sum(answer.prompt_tokens for answer in whole)
    answer_tokens = sum(answer.tokens for answer in whole)
    per_token = _there(answer.per_token_s for answer in whole)
    return {
        "concurrency": row.load.concurrency,
        "rate": row.load.rate,
        "requests": len(row.answers),
        "succeeded": len(whole),
        "cancelled": sum(answer.is_cancelled for answer in row.answers),
        "errors": errors(row.answers),
        "finish_reasons": dict(Counter(answer.finish_reason or "none" for answer in whole)),
        "seconds": seconds,
        "requests_per_s": _rate(len(whole), seconds),
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "cached_tokens": _sum(answer.cached for answer in whole),
        "counted_by": counted_by(whole),
        "prompt_tokens_per_s": _rate(prompt_tokens, seconds),
        "answer_tokens_per_s": _rate(answer_tokens, seconds),
        "stream_tokens_per_s": summary([1 / each for each in per_token if each > 0]),
        "first_token_s": summary(row.first_token_s()),
        "inter_token_s": summary(row.gaps_s()),
        "per_token_s": summary(per_token),
        "request_s": summary([answer.ended_s - answer.sent_s for answer in whole]),
        "client": client_json(row.overhead),
    }


def client_json(overhead: Overhead) -> dict[str, Any]:
    """What the client took: its share of one core, microseconds of it a piece, and how late it woke."""
    chunks = overhead.n_chunks
    return {
        "cpu_share": overhead.cpu_s / overhead.wall_s if overhead.wall_s > 0 else 0.0,
        "cpu_us_per_piece": 1e6 * overhead.cpu_s / chunks if chunks else None,
        "late_s": summary(overhead.late_s),
    }


def summary(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles (linear between samples), most, and how many; None of none."""
    if not values:
        return None
    found = np.percentile(values, PERCENTILES).tolist()
    named = {f"p{percent}": value for percent, value in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(np.mean(values)), **named, "max": max(values), "n": len(values)}


def errors(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Kind -> how many, and the first one's words; the most frequent first."""
    kinds = Counter(answer.error for answer in answers if answer.error)
    first = {answer.error: answer.detail for answer in reversed(answers)}
    return {kind: {"count": n, "first": first[kind]} for kind, n in kinds.most_common()}


def counted_by(answers: Sequence[Answer]) -> str | None:
    """Who counted the tokens of these answers; None of none."""
    counted = {answer.is_counted for answer in answers}
    if len(counted) == 2:
        return BOTH
    return None if not counted else SERVER if counted == {True} else PIECES


def _there(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[int | None]) -> int | None:
    """None where any is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if found and len(known) == len(found) else None


def _rate(n: int | None, seconds: float) -> float | None:
    return n / seconds if n is not None and seconds > 0 else None
