"""octuor bench serve: a table for people, one JSON object for programs, and what ends it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from command_line import environment, octuor, program
from fake_openai import Asked, FakeServer, answer_as_asked, head, piece, serving_thread, tokenize, whole
from octuor.bench.serve import session
from octuor.cli.bench_serve import INTERRUPTED


@pytest.fixture(autouse=True)
def idle_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests take a whole core, with the server in it."""
    monkeypatch.setattr(session, "BUSY", 100.0)


SMALL = ("--concurrency", "1,2", "--requests", 3, "--prompt-tokens", 20, "--answer-tokens", "2-5", "--seed", 1)


def test_tables_for_people() -> None:
    with serving_thread(FakeServer(small={"/tokenize": tokenize})) as fake:
        done = octuor("bench", "serve", fake.url, *SMALL)
    assert (done.code, done.err) == (0, "")
    for text in ("fake-1, chat", "prompts of 20 tokens", "answers of 2 to 5, seed 1", "3/3", "first token", "x2"):
        assert text in done.out
    for text in ("between pieces", "per token", "whole answer", "of a core", "tokens counted by usage"):
        assert text in done.out
    assert "note:" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_json_is_one_object() -> None:
    with serving_thread(FakeServer()) as fake:
        done = octuor("bench", "serve", "--url", fake.url, *SMALL, "--json", "--key", "k", "--body", '{"top_p": 1}')
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    report = json.loads(done.out)
    assert [(row["concurrency"], row["succeeded"]) for row in report["rows"]] == [(1, 3), (2, 3)]
    assert all(asked.body["top_p"] == 1 and asked.headers["authorization"] == "Bearer k" for asked in fake.asked)


def test_a_rate_and_a_plot(tmp_path: Path) -> None:
    with serving_thread(FakeServer()) as fake:
        args = ("--rate", "100,200", "--requests", 5, "--endpoint", "completions", "--prompt-ids", "--ignore-eos")
        done = octuor("bench", "serve", fake.url, *args, "--min-tokens", "--plot", tmp_path / "x.png", "--json")
    assert [(row["rate"], row["requests"]) for row in json.loads(done.out)["rows"]] == [(100.0, 5), (200.0, 5)]
    assert fake.asked[0].body["ignore_eos"]
    assert fake.asked[0].body["min_tokens"] == 128
    assert (tmp_path / "x.png").stat().st_size


def test_rows_are_four_requests_a_stream_unless_said_otherwise() -> None:
    with serving_thread(FakeServer()) as fake:
        done = octuor("bench", "serve", fake.url, "--prompt-tokens", 5, "--answer-tokens", 1, "--json")
    assert [(row["concurrency"], row["requests"]) for row in json.loads(done.out)["rows"]] == [(1, 4), (8, 32)]


def test_failures_are_shown_with_the_servers_words() -> None:
    async def refuses(_: Asked) -> AsyncIterator[bytes]:
        yield whole({"error": {"message": "the [queue] is full"}}, 429)

    with serving_thread(FakeServer(refuses)) as fake:
        done = octuor("bench", "serve", fake.url, "--concurrency", 2, "--requests", 2)
    assert (done.code, done.err) == (1, "")
    assert "x2: 2 x HTTP 429: the [queue] is full" in done.out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "expected one address, URL or --url"),
        (["h", "--url", "h"], "expected one address, URL or --url"),
        (["ftp://h"], "URL: expected such as http://127.0.0.1:8000"),
        (["h", "--concurrency", "1", "--rate", "1"], "expected --concurrency or --rate, found both"),
        (["h", "--requests", "1", "--duration", "1"], "expected --requests or --duration, found both"),
        (["h", "--concurrency", "a"], "--concurrency: expected numbers such as 1,4,8; found 'a'"),
        (["h", "--concurrency", "0"], "--concurrency: expected numbers above 0, found '0'"),
        (["h", "--rate", "inf"], "--rate: expected numbers above 0, found 'inf'"),
        (["h", "--prompt-tokens", "few"], "--prompt-tokens: expected 128, 64-256"),
        (["h", "--body", "x"], "--body: expected a JSON object"),
        (["h", "--prompt-ids"], "--prompt-ids: expected --endpoint completions"),
        (["h", "--plot", "x.pdf"], "found x.pdf"),
        (["http://127.0.0.1:1"], "http://127.0.0.1:1: expected an OpenAI-compatible server, found 127.0.0.1:1: Conn"),
    ],
)
def test_errors_are_one_line(args: list[str], says: str) -> None:
    done = octuor("bench", "serve", *args)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert says in done.err


def test_the_command_of_one_word_is_another() -> None:
    assert "--geometry" in octuor("bench", "--help").out
    assert "--concurrency" in octuor("bench", "serve", "--help").out


def test_ctrl_c_prints_what_there_is() -> None:
    """As a program, which is sent the signal when its third request is under way."""

    async def third_never_ends(asked: Asked) -> AsyncIterator[bytes]:
        if len(fake.asked) == 3:
            yield head() + piece(" a")
            process.send_signal(signal.SIGINT)
            await asyncio.Event().wait()
        async for part in answer_as_asked(asked):
            yield part

    args = ("--concurrency", "1,2", "--requests", 5, "--warmup", 0, "--answer-tokens", 2, "--json")
    with serving_thread(FakeServer(third_never_ends)) as fake:
        command = program("bench", "serve", fake.url, *args)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
        ) as process:  # fmt: skip
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (INTERRUPTED, "")
    report = json.loads(out)
    assert report["interrupted"]
    assert [(row["succeeded"], row["cancelled"]) for row in report["rows"]] == [(2, 1)]
