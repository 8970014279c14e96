"""Whole load tests against a server in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_openai import DONE, Asked, FakeServer, answer_as_asked, head, piece, serving, tokenize, usage, whole
from octuor.api import POCKET
from octuor.bench.serve import session
from octuor.bench.serve.lengths import Uniform
from octuor.bench.serve.run import Load
from octuor.bench.serve.session import Result, Settings, load_test, result_json
from octuor.errors import RequestError


@pytest.fixture(autouse=True)
def idle_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests take a whole core, with the server in it."""
    monkeypatch.setattr(session, "BUSY", 100.0)


SMALL = Settings(
    "", (Load(1, requests=2), Load(3, requests=6, warmup=0)), prompt=Uniform(20, 20), answer=Uniform(4, 4), seed=1
)


def run(settings: Settings, fake: FakeServer | None = None, stop: asyncio.Event | None = None) -> Result:
    async def main() -> Result:
        async with serving(fake or FakeServer()) as server:
            return await load_test(replace(settings, url=server.url), stop=stop or asyncio.Event())

    return asyncio.run(main())


def contents(fake: FakeServer) -> list[Any]:
    return [asked.body["messages"][-1]["content"] for asked in fake.asked]


def test_prompts_counted_by_the_server_are_exact() -> None:
    fake = FakeServer(small={"/tokenize": tokenize})
    result = run(SMALL, fake)
    assert (result.model, result.notes, result.is_interrupted) == ("fake-1", (), False)
    assert result.prompts == "20 tokens (words, counted by the server's /tokenize)"
    assert [len(row.whole) for row in result.rows] == [2, 6]
    assert all(len(text.split()) + 3 == 20 for text in contents(fake))
    assert len(set(contents(fake))) == 9  # a row's prompts are not another's, nor is the warm-up's


def test_the_object_that_is_printed() -> None:
    found = result_json(run(SMALL, FakeServer(small={"/tokenize": tokenize})))
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {
        "url", "endpoint", "model", "prompts", "answers", "seed", "interrupted", "notes", "rows",
    }  # fmt: skip
    assert set(found["rows"][0]) == {
        "concurrency", "rate", "requests", "succeeded", "cancelled", "errors", "finish_reasons", "seconds",
        "requests_per_s", "prompt_tokens", "answer_tokens", "cached_tokens", "counted_by", "prompt_tokens_per_s",
        "answer_tokens_per_s", "stream_tokens_per_s", "first_token_s", "inter_token_s", "per_token_s", "request_s",
        "client",
    }  # fmt: skip
    assert [(row["concurrency"], row["answer_tokens"]) for row in found["rows"]] == [(1, 8), (3, 24)]


def test_a_seed_sends_the_same() -> None:
    fakes = [FakeServer() for _ in range(3)]
    for fake, seed in zip(fakes, (5, 5, 6), strict=True):
        run(replace(SMALL, loads=(Load(1, requests=3),), seed=seed), fake)
    assert contents(fakes[0]) == contents(fakes[1]) != contents(fakes[2])


def test_token_ids() -> None:
    fake = FakeServer()
    result = run(replace(SMALL, endpoint="completions", ids=range(7, 9), shared_prefix=30), fake)
    prompts = [asked.body["prompt"] for asked in fake.asked]
    assert all(len(prompt) == 50 and set(prompt) <= {7, 8} for prompt in prompts)
    assert len({tuple(prompt[:30]) for prompt in prompts}) == 1
    assert result.prompts == "20 tokens (random ids, after 30 that all share)"


def test_a_tokenizer_here_counts_for_a_server_that_does_not() -> None:
    fake = FakeServer()
    result = run(replace(SMALL, tokenizer=str(POCKET)), fake)
    assert result.prompts == f"20 tokens (words, counted by {POCKET.name})"
    # [INST], [/INST] and BOS are eight tokens; the fake says three
    assert {len(text.split()) for text in contents(fake)} == {12}
    assert result.notes == ("prompts have 0.75 times the tokens asked for, by the server's count",)


def test_nobody_counts() -> None:
    result = run(SMALL)
    assert any(note.startswith("the server has no /tokenize: prompts have about") for note in result.notes)


def test_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two", "max_tokens": 2}\n')
    fake = FakeServer()
    result = run(replace(SMALL, dataset=path), fake)
    assert contents(fake)[:3] == ["one", "two", "one"]  # the warm-up's among them
    assert result.prompts == "2 of prompts.jsonl"
    assert {asked.body["max_tokens"] for asked in fake.asked} == {2, 4}


def test_a_named_model_needs_no_list() -> None:
    fake = FakeServer(small={"/v1/models": lambda _: whole({}, 404)})
    run(replace(SMALL, model="mine"), fake)
    assert {asked.body["model"] for asked in fake.asked} == {"mine"}
    with pytest.raises(RequestError, match="expected a list of models at /v1/models, found HTTP 404; name the model"):
        run(SMALL, fake)


def test_a_server_that_counts_nothing_or_knew_the_prompts() -> None:
    async def uncounted(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a") + piece(" b", "stop") + DONE

    result = run(SMALL, FakeServer(uncounted))
    assert "the server sends no usage: each piece of text is counted as one token" in result.notes

    async def known(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece(" a", "stop") + usage(20, 1, cached=10) + DONE

    note = "the server had parts of prompts in its cache already: use another --seed"
    assert note in run(SMALL, FakeServer(known)).notes
    assert note not in run(replace(SMALL, shared_prefix=10), FakeServer(known)).notes


def test_a_client_that_is_the_limit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BUSY", 0.0)
    assert any("of a core: figures may be its own limit" in note for note in run(SMALL).notes)


def test_requests_that_take_too_long() -> None:
    async def endless(_: Asked) -> AsyncIterator[bytes]:
        yield head()
        await asyncio.Event().wait()

    settings = replace(SMALL, loads=(Load(2, requests=2, warmup=0),), timeout_s=0.2)
    result = run(settings, FakeServer(endless))
    assert result_json(result)["rows"][0]["errors"]["timeout"]["count"] == 2
    assert "requests longer than --timeout 0.2 were ended" in result.notes


def test_stopping_reports_what_there_is() -> None:
    stop = asyncio.Event()

    async def third_is_last(asked: Asked) -> AsyncIterator[bytes]:
        if len(fake.asked) == 3:
            yield head() + piece(" a")
            stop.set()
            await asyncio.Event().wait()
        async for part in answer_as_asked(asked):
            yield part

    fake = FakeServer(third_is_last)
    loads = (Load(1, requests=9, warmup=0), Load(2, requests=2))
    result = run(replace(SMALL, loads=loads), fake, stop)
    (row,) = result_json(result)["rows"]
    assert result.is_interrupted
    assert (row["requests"], row["succeeded"], row["cancelled"], row["errors"]) == (3, 2, 1, {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": range(5)}, "--prompt-ids: expected --endpoint completions"),
        ({"dataset": Path("x"), "tokenizer": "y"}, "--dataset: expected no --prompt-ids and no --tokenizer"),
        ({"dataset": Path("x"), "shared_prefix": 5}, "--dataset: expected no --shared-prefix"),
    ],
)
def test_settings_that_do_not_go_together(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        run(replace(SMALL, **change))
