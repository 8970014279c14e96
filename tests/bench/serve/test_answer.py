"""From bytes with times to answers: wherever the network cuts them, and whatever a server sends."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_openai import DONE, event, piece, usage
from octuor.bench.serve.answer import Answer, events, read_answer
from octuor.bench.serve.exchange import NO_CONNECTION, Call, Exchange

STREAM = (
    b': ping\r\n\r\ndata: a\n\ndata: b1\r\ndata:b2\r\n\r\nevent: x\rid: 1\rdata:  c\r\rdata: "\xc3\xa9"\n\ndata: cut'
)
EVENTS = [b"a", b"b1\nb2", b" c", b'"\xc3\xa9"']


def exchange(*chunks: bytes, status: int = 200, content_type: str = "text/event-stream") -> Exchange:
    """An exchange sent at 10 s whose pieces came at 11 s, 12 s and so on."""
    times = [11.0 + n for n in range(len(chunks))]
    return Exchange(Call(b"{}", 5), 10.0, 11.0 + len(chunks), status, content_type, 0.0, times, list(chunks))


def test_events_of_a_stream_in_one_piece() -> None:
    assert list(events([1.0], [STREAM])) == [(1.0, data) for data in EVENTS]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(ends)]
    assert [data for _, data in events(range(len(chunks)), chunks)] == EVENTS


def test_an_event_has_the_time_of_the_byte_that_completes_it() -> None:
    stream = b"data: a\n\ndata: b\n\n"
    chunks = [stream[i : i + 1] for i in range(len(stream))]
    assert list(events(range(len(stream)), chunks)) == [(8, b"a"), (17, b"b")]
    # both halves of a line end count as one, and its first half is enough
    assert list(events([1, 2, 3], [b"data: a\r\n\r", b"\ndata: b\r", b"\n\r\n"])) == [(1, b"a"), (3, b"b")]


def test_a_whole_answer() -> None:
    found = read_answer(exchange(piece(), piece(" one") + piece(" two"), piece(" three", "length"), usage(7, 4) + DONE))
    assert found == Answer(10.0, 15.0, (12.0, 12.0, 13.0), 4, True, 7, 5, None, "length")
    assert found.is_whole
    assert found.first_token_s == 2.0
    assert found.gaps_s == [0.0, 1.0]
    assert found.per_token_s == pytest.approx(1 / 3)


def test_tokens_are_counted_by_pieces_where_the_server_does_not() -> None:
    found = read_answer(exchange(piece(" one"), piece(" two"), piece("", "stop") + DONE))
    assert (found.tokens, found.is_counted, found.prompt_tokens) == (2, False, 5)
    assert found.finish_reason == "stop"


def test_usage_in_the_chunk_with_the_end_and_cached_tokens() -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    found = read_answer(exchange(piece(" one", "stop", told), DONE))
    assert (found.tokens, found.prompt_tokens, found.cached, found.is_whole) == (1, 9, 8, True)


@pytest.mark.parametrize("delta", [{"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}, {"reasoning": "hm"}])
def test_all_that_a_model_says_is_text(delta: object) -> None:
    found = read_answer(exchange(event({"choices": [{"delta": delta, "finish_reason": None}]}), piece("", "stop")))
    assert found.text_s == (11.0,)


def test_an_answer_without_text_is_whole() -> None:
    found = read_answer(exchange(piece("", "stop"), DONE))
    assert (found.is_whole, found.tokens, found.first_token_s, found.gaps_s, found.per_token_s) == (
        True,
        0,
        None,
        [],
        None,
    )


def test_a_stream_that_ends_too_early_keeps_what_came() -> None:
    found = read_answer(exchange(piece(" one"), piece(" two")[:-1]))
    assert (found.error, found.tokens, found.is_whole) == ("broken stream", 1, False)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"error": {"message": "slow down", "type": "x"}}, "slow down"),
        ({"object": "error", "message": "slow down"}, "slow down"),
        ({"error": "slow down", "error_type": "overloaded"}, "slow down"),
        ({"detail": "slow down"}, "slow down"),
        ({"detail": [1]}, '{"detail": [1]}'),
        ([1], "[1]"),
    ],
)
def test_an_error_status_with_the_servers_words(body: object, detail: str) -> None:
    refused = exchange(json.dumps(body).encode(), status=429, content_type="application/json")
    found = read_answer(refused)
    assert (found.error, found.detail) == ("HTTP 429", detail)
    assert refused.is_refused


@pytest.mark.parametrize(
    ("chunks", "error", "detail"),
    [
        ([piece(" a"), event({"error": {"message": "out of memory"}})], "error event", "out of memory"),
        ([event([1])], "error event", "[1]"),
        ([event(b"nonsense")], "not JSON", "nonsense"),
        ([event({"choices": 3, "usage": 4})], "broken stream", "ended without a finish_reason"),
        ([event({"choices": [None, {"delta": None}]})], "broken stream", "ended without a finish_reason"),
        ([], "broken stream", "ended without a finish_reason"),
    ],
)
def test_streams_that_are_not_well(chunks: list[bytes], error: str, detail: str) -> None:
    found = read_answer(exchange(*chunks))
    assert (found.error, found.detail) == (error, detail)


def test_an_answer_that_is_no_stream() -> None:
    found = read_answer(exchange(b'{"choices": []}', content_type="application/json"))
    assert (found.error, found.detail) == ("not a stream", 'application/json {"choices": []}')


def test_what_the_client_saw_comes_first() -> None:
    failed = Exchange(Call(b"{}"), 10.0, 11.0, failure=NO_CONNECTION, detail="refused")
    assert (read_answer(failed).error, read_answer(failed).detail) == (NO_CONNECTION, "refused")
    slow = exchange(piece(" a"))
    slow.failure, slow.detail = "timeout", "60 s"
    assert (read_answer(slow).error, read_answer(slow).detail, read_answer(slow).tokens) == ("timeout", "60 s", 1)


def test_what_we_cancelled_is_no_error() -> None:
    cut = exchange(piece(" a"))
    cut.is_cancelled = True
    found = read_answer(cut)
    assert (found.error, found.is_cancelled, found.is_whole, found.tokens) == ("", True, False, 1)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    for status in (200, 500):
        read_answer(exchange(data, b"\n\n" + event(data) + piece(" a"), status=status))


KEYS = st.sampled_from(
    ["choices", "delta", "usage", "content", "error", "finish_reason", "completion_tokens", "prompt_tokens_details"]
)
LEAVES = st.none() | st.integers() | st.text(max_size=4)


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)


@given(st.recursive(LEAVES, nested, max_leaves=12))
def test_no_json_makes_it_raise(value: object) -> None:
    read_answer(exchange(event(value), event({"choices": [value], "usage": value}), DONE))
