"""Figures of rows against figures worked out by hand."""

from __future__ import annotations

import json

import pytest

from fake_openai import DONE, piece, usage
from octuor.bench.serve.answer import Answer
from octuor.bench.serve.exchange import Call, Exchange
from octuor.bench.serve.report import Row, counted_by, errors, read_row, row_json, summary
from octuor.bench.serve.run import Found, Load, Overhead

# 3 tokens from 1 s to 2 s after sending, 2 pieces at 1 s and 2 s; then 1 token alone, and 5 in 4 pieces
ANSWERS = (
    Answer(10.0, 12.5, (11.0, 12.0), 3, True, 100, 100, 64, "length"),
    Answer(10.0, 14.0, (13.0,), 1, True, 50, 50, 0, "stop"),
    Answer(11.0, 15.0, (12.0, 13.0, 13.0, 14.0), 5, True, 50, 50, 0, "length"),
)


def test_percentiles() -> None:
    found = summary(list(range(101)))
    assert found == {"mean": 50.0, "p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100, "n": 101}
    assert summary([4.0, 2.0]) == pytest.approx({"mean": 3, "p50": 3, "p95": 3.9, "p99": 3.98, "max": 4, "n": 2})
    assert summary([7.0]) == {"mean": 7.0, "p50": 7.0, "p95": 7.0, "p99": 7.0, "max": 7.0, "n": 1}
    assert summary([]) is None


def test_a_row() -> None:
    found = row_json(Row(Load(2), ANSWERS, Overhead(0.5, 5.0, 100, [0.001, 0.003])))
    assert (found["requests"], found["succeeded"], found["cancelled"], found["errors"]) == (3, 3, 0, {})
    assert found["finish_reasons"] == {"length": 2, "stop": 1}
    assert (found["seconds"], found["requests_per_s"]) == (5.0, 0.6)
    assert (found["prompt_tokens"], found["answer_tokens"], found["cached_tokens"]) == (200, 9, 64)
    assert (found["prompt_tokens_per_s"], found["answer_tokens_per_s"]) == (40.0, 1.8)
    assert found["first_token_s"] == pytest.approx({"mean": 5 / 3, "p50": 1, "p95": 2.8, "p99": 2.96, "max": 3, "n": 3})
    assert (found["inter_token_s"]["mean"], found["inter_token_s"]["n"]) == (pytest.approx(0.75), 4)
    assert (found["per_token_s"]["mean"], found["per_token_s"]["n"]) == (pytest.approx(0.5), 2)
    assert (found["stream_tokens_per_s"]["mean"], found["stream_tokens_per_s"]["n"]) == (pytest.approx(2.0), 2)
    assert found["request_s"]["mean"] == pytest.approx((2.5 + 4 + 4) / 3)
    assert found["counted_by"] == "usage"
    assert found["client"]["cpu_share"] == pytest.approx(0.1)
    assert found["client"]["cpu_us_per_piece"] == pytest.approx(5000)
    assert found["client"]["late_s"]["mean"] == pytest.approx(0.002)
    json.dumps(found)


def test_what_failed_or_was_cut_counts_in_no_figure() -> None:
    failed = Answer(0.0, 99.0, (50.0, 60.0), 2, error="broken stream", detail="gone")
    cut = Answer(11.0, 99.0, (12.0,), 1, is_cancelled=True)
    found = row_json(Row(Load(2), (*ANSWERS, failed, cut), Overhead()))
    alone = row_json(Row(Load(2), ANSWERS, Overhead()))
    assert (found["requests"], found["succeeded"], found["cancelled"]) == (5, 3, 1)
    assert found["errors"] == {"broken stream": {"count": 1, "first": "gone"}}
    assert found["seconds"] == 15.0  # the time that failures took was the server's too
    for key in ("answer_tokens", "first_token_s", "inter_token_s", "per_token_s", "request_s"):
        assert found[key] == alone[key]


def test_a_row_in_which_nothing_came() -> None:
    for answers in ((), (Answer(0.0, 1.0, error="timeout"),), (Answer(0.0, 1.0, is_cancelled=True),)):
        found = row_json(Row(Load(rate=2.0), answers, Overhead()))
        assert (found["concurrency"], found["rate"], found["succeeded"], found["seconds"]) == (None, 2.0, 0, 0.0)
        assert (found["answer_tokens_per_s"], found["first_token_s"], found["counted_by"]) == (None, None, None)
        json.dumps(found)


def test_tokens_that_nobody_knows_are_not_summed() -> None:
    found = row_json(Row(Load(1), (*ANSWERS, Answer(10.0, 11.0)), Overhead()))
    assert (found["prompt_tokens"], found["prompt_tokens_per_s"], found["cached_tokens"]) == (None, None, None)


def test_errors_by_kind_the_most_frequent_first() -> None:
    rows = [("timeout", "a"), ("HTTP 429", "full"), ("HTTP 429", "later"), ("", "")]
    found = errors([Answer(0, 1, error=kind, detail=detail) for kind, detail in rows])
    assert list(found.items()) == [
        ("HTTP 429", {"count": 2, "first": "full"}), ("timeout", {"count": 1, "first": "a"}),
    ]  # fmt: skip


def test_who_counted() -> None:
    server, pieces = Answer(0, 1, is_counted=True), Answer(0, 1)
    assert [counted_by(answers) for answers in ([], [server], [pieces], [server, pieces])] == [
        None, "usage", "pieces", "usage and pieces",
    ]  # fmt: skip


def test_exchanges_are_read() -> None:
    came = [piece(" a"), piece(" b", "stop"), usage(3, 2) + DONE]
    exchange = Exchange(Call(b"{}"), 1.0, 5.0, 200, "text/event-stream", 0.0, [2.0, 3.0, 4.0], came)
    row = read_row(Found(Load(1), [exchange]))
    assert (row.first_token_s(), row.gaps_s(), row.whole) == ([1.0], [1.0], list(row.answers))
