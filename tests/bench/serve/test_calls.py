"""Bodies of requests, and files of prompts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octuor.bench.serve.calls import Endpoint, Shape, dataset_calls, drawn_calls, parse_extra, read_dataset
from octuor.bench.serve.exchange import Call
from octuor.bench.serve.lengths import Uniform
from octuor.bench.serve.words import Prompt, RandomIds
from octuor.errors import RequestError


def body(call: Call) -> Any:
    return json.loads(call.body)


def test_bodies() -> None:
    chat = Shape("chat", "m", Uniform(5, 5)).call(Prompt("Hello", 7), 5)
    assert chat.prompt_tokens == 7
    assert body(chat) == {
        "model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    assert body(Shape("chat", "m", Uniform(5, 5)).call(Prompt(messages), 5))["messages"] == messages
    shape = Shape("completions", "m", Uniform(5, 5), ignore_eos=True, min_tokens=True, extra={"temperature": 0})
    found = body(shape.call(Prompt([1, 2]), 9))
    assert (found["prompt"], found["ignore_eos"], found["min_tokens"], found["temperature"]) == ([1, 2], True, 9, 0)


def test_the_users_own_fields_go_before_ours() -> None:
    shape = Shape("completions", "m", Uniform(5, 5), extra={"stream_options": None, "max_tokens": 1})
    found = body(shape.call(Prompt("x"), 9))
    assert (found["stream_options"], found["max_tokens"]) == (None, 1)


def test_drawn_requests_differ_and_a_seed_draws_the_same() -> None:
    shape = Shape("completions", "m", Uniform(1, 9))

    def draw(seed: int) -> list[Call]:
        calls = drawn_calls(shape, RandomIds(range(50)), Uniform(10, 20), np.random.default_rng(seed))
        return list(itertools.islice(calls, 20))

    assert draw(1) == draw(1) != draw(2)
    bodies = list(map(body, draw(1)))
    assert len({tuple(found["prompt"]) for found in bodies}) == 20
    assert {len(found["prompt"]) for found in bodies} <= set(range(10, 21))
    assert len({found["max_tokens"] for found in bodies}) > 3


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return path


def test_a_file_of_prompts_is_sent_in_order_and_again(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "one", "max_tokens": 3}, {"prompt": [1, 2, 3]})
    lines = read_dataset(path, "completions")
    calls = list(itertools.islice(dataset_calls(Shape("completions", "m", Uniform(8, 8)), lines, rng()), 3))
    assert [(body(call)["prompt"], body(call)["max_tokens"], call.prompt_tokens) for call in calls] == [
        ("one", 3, None), ([1, 2, 3], 8, 3), ("one", 3, None),
    ]  # fmt: skip


def test_messages_and_prompts_for_a_chat(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "x"}]
    lines = read_dataset(write(tmp_path, {"messages": messages}, {"prompt": "y"}), "chat")
    found = [body(call)["messages"] for call in itertools.islice(dataset_calls(SHAPE, lines, rng()), 2)]
    assert found == [messages, [{"role": "user", "content": "y"}]]


SHAPE = Shape("chat", "m", Uniform(8, 8))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("row", "endpoint", "says"),
    [
        ("{", "chat", "prompts.jsonl:1: expected a JSON object, found '{'"),
        ([1], "chat", 'expected "prompt"'),
        ({"text": "x"}, "chat", 'expected "prompt" (a text or token ids) or "messages"'),
        ({"prompt": ""}, "chat", 'expected "prompt"'),
        ({"prompt": [1, 2]}, "chat", "no token ids for --endpoint chat; use --endpoint completions"),
        ({"messages": [{}]}, "completions", "no messages for --endpoint completions; use --endpoint chat"),
        ({"prompt": "x", "max_tokens": 0}, "chat", "max_tokens: expected a whole number above 0, found 0"),
        ("", "chat", "has none"),
    ],
)
def test_lines_that_cannot_be_sent(tmp_path: Path, row: object, endpoint: Endpoint, says: str) -> None:
    with pytest.raises(RequestError) as error:
        read_dataset(write(tmp_path, row), endpoint)
    assert says in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--dataset: expected a file of JSON lines, .*none"):
        read_dataset(tmp_path / "none", "chat")


def test_fields_on_the_command_line() -> None:
    assert parse_extra("--body", '{"temperature": 0}') == {"temperature": 0}
    for text in ("", "[1]", "temperature=0"):
        with pytest.raises(RequestError, match="--body: expected a JSON object"):
            parse_extra("--body", text)
