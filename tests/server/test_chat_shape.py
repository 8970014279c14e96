"""From events to a chat's answer. Answers are checked against what /openapi.json says of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from octuor.engine.request import Finish, Step, TokenInfo
from octuor.grammar import Tool, ToolParser, ToolUse
from octuor.server.chat_shape import ChatShape, Head, Voice, prompt_logprobs, usage_of
from octuor.server.schemas.chat_answers import ChatChunk, ChatCompletion
from octuor.server.schemas.common import Usage
from server.fake_engine import FakeJob, step, steps
from tokenizer_file import mixtral_tokenizer

USAGE: Usage = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
}
STOP = Finish("stop")
USE = ToolUse((Tool("f", "", {"type": "object"}),), "auto")
CALLS = '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {}}]'


def make(n: int = 1, *, use: ToolUse | None = None, prefix: str = "", **options: bool) -> ChatShape:
    """A shape whose ids of calls do not change."""
    given = {"logprobs": False, "include_usage": False} | options
    parsers = [ToolParser(use or ToolUse(), seed=1, choice=choice) for choice in range(n)]
    return ChatShape(Head("mistral-tiny"), mixtral_tokenizer(), parsers, prefix=prefix, **given)


def whole(shape: ChatShape, said: list[Step]) -> ChatCompletion:
    for one in said:
        shape.add(one)
    return TypeAdapter(ChatCompletion).validate_python(shape.whole(USAGE), extra="forbid")


def streamed(shape: ChatShape, said: list[Step]) -> list[ChatChunk]:
    chunks = [chunk for one in said for chunk in shape.chunks(one)]
    chunks += shape.end(USAGE)
    return [TypeAdapter(ChatChunk).validate_python(chunk, extra="forbid") for chunk in chunks]


def deltas(chunks: list[ChatChunk]) -> list[Any]:
    return [
        (choice["index"], choice["delta"], choice["finish_reason"]) for chunk in chunks for choice in chunk["choices"]
    ]


def test_a_whole_answer() -> None:
    answer = whole(make(), steps(["Hi", "", " there"]))
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "Hi there", "tool_calls": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert (answer["model"], answer["object"], answer["usage"]) == ("mistral-tiny", "chat.completion", USAGE)


def test_a_stream() -> None:
    """The role comes first, silence makes no chunk, the end is a chunk of its own and has the usage."""
    chunks = streamed(make(), steps(["Hi", "", " there"]))
    assert deltas(chunks) == [
        (0, {"role": "assistant", "content": ""}, None),
        (0, {"content": "Hi"}, None),
        (0, {"content": " there"}, None),
        (0, {"content": ""}, "stop"),
    ]
    assert ["usage" in chunk for chunk in chunks] == [False, False, False, True]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_in_a_chunk_of_its_own() -> None:
    chunks = streamed(make(include_usage=True), steps(["Hi"]))
    assert [chunk["usage"] for chunk in chunks] == [None, None, None, USAGE]
    assert chunks[-1]["choices"] == []


def test_choices_end_one_by_one() -> None:
    """Usage comes once, with the last finish_reason of all."""
    said = [step("a"), step("b", choice=1, finish=STOP), step("c", finish=Finish("length"))]
    chunks = streamed(make(2), said)
    assert [(index, reason) for index, _, reason in deltas(chunks) if reason] == [(1, "stop"), (0, "length")]
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    answer = whole(make(2), said)
    assert [(choice["message"]["content"], choice["finish_reason"]) for choice in answer["choices"]] == [
        ("ac", "length"),
        ("b", "stop"),
    ]


def test_no_tokens_at_all() -> None:
    said = [Step(0, None, "", Finish("length"))]
    assert whole(make(), said)["choices"][0]["finish_reason"] == "length"
    assert deltas(streamed(make(), said)) == [
        (0, {"role": "assistant", "content": ""}, None),
        (0, {"content": ""}, "length"),
    ]


def test_answers_begin_with_the_prefix() -> None:
    assert whole(make(prefix="Sure,"), steps([" yes"]))["choices"][0]["message"]["content"] == "Sure, yes"
    assert deltas(streamed(make(prefix="Sure,"), steps([" yes"])))[0][1] == {"role": "assistant", "content": "Sure,"}


# ---- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tool_calls(size: int) -> None:
    """Whole calls, one a chunk, the content a string however it was cut."""
    said = steps([CALLS[at : at + size] for at in range(0, len(CALLS), size)])
    (choice,) = whole(make(use=USE), said)["choices"]
    calls = choice["message"]["tool_calls"]
    assert calls is not None
    assert [(call["index"], call["function"]) for call in calls] == [
        (0, {"name": "f", "arguments": '{"x": 1}'}),
        (1, {"name": "f", "arguments": "{}"}),
    ]
    assert all(len(call["id"]) == 9 and call["id"].isalnum() for call in calls)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "tool_calls")
    found = deltas(streamed(make(use=USE), said))
    assert found == [
        (0, {"role": "assistant", "content": ""}, None),
        *((0, {"content": "", "tool_calls": [call]}, None) for call in calls),
        (0, {"content": ""}, "tool_calls"),
    ]


def test_text_that_only_looks_like_a_call() -> None:
    assert whole(make(use=USE), steps(["[TOOL", "_"]))["choices"][0]["message"]["content"] == "[TOOL_"
    assert (
        "".join(delta["content"] for _, delta, _ in deltas(streamed(make(use=USE), steps(["[TOOL", "_"])))) == "[TOOL_"
    )


def test_a_call_that_was_cut_off_is_no_call() -> None:
    (choice,) = whole(make(use=USE), [step(CALLS[:30], finish=Finish("length"))])["choices"]
    assert (choice["message"]["tool_calls"], choice["finish_reason"]) == (None, "length")


# ---- log-probabilities ---------------------------------------------------------------------------


def said_ids(*ids: int) -> list[Step]:
    """Steps whose text is what the ids stand for, whole at the end, without the first blank."""
    tokenizer = mixtral_tokenizer()
    found, before = [], ""
    for place, token_id in enumerate(ids, start=1):
        text = tokenizer.decode(ids[:place]).rstrip("\ufffd")
        found.append(Step(0, TokenInfo(token_id, -0.5, ((token_id, -0.5), (2, -1.0))), text[len(before) :]))
        before = text
    return found


def test_tokens_have_text_ids_and_bytes() -> None:
    answer = whole(make(logprobs=True), [*said_ids(15359, 736), Step(0, TokenInfo(2, -0.1), "", STOP)])
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs is not None
    assert logprobs["content"] == [
        {
            "token": "Hi", "token_id": 15359, "logprob": -0.5, "bytes": [72, 105],
            "top_logprobs": [
                {"token": "Hi", "token_id": 15359, "logprob": -0.5, "bytes": [72, 105]},
                {"token": "</s>", "token_id": 2, "logprob": -1.0, "bytes": []},
            ],
        },
        {
            "token": " there", "token_id": 736, "logprob": -0.5, "bytes": list(b" there"),
            "top_logprobs": [
                {"token": " there", "token_id": 736, "logprob": -0.5, "bytes": list(b" there")},
                {"token": "</s>", "token_id": 2, "logprob": -1.0, "bytes": []},
            ],
        },
    ]  # fmt: skip


def test_their_bytes_are_the_answers() -> None:
    ids = mixtral_tokenizer().encode("Hi 🦑, é!")
    said = [*said_ids(*ids), Step(0, TokenInfo(2, -0.1), "", STOP)]
    (choice,) = whole(make(logprobs=True), said)["choices"]
    assert choice["logprobs"] is not None
    joined = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
    assert joined.decode() == choice["message"]["content"] == "Hi 🦑, é!"


def test_in_a_stream_tokens_come_with_their_text() -> None:
    """Four bytes make one character: their tokens come in the chunk that has it."""
    ids = mixtral_tokenizer().encode("🦑")
    chunks = streamed(make(logprobs=True), [*said_ids(*ids), Step(0, TokenInfo(2, -0.1), "", STOP)])
    shown = [
        (choice["delta"]["content"], [entry["token"] for entry in choice["logprobs"]["content"]])
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"] is not None
    ]
    assert shown == [("🦑", ["", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\xa6", "bytes:\\x91"])]


def test_a_stop_strings_tokens_are_not_shown() -> None:
    voice = Voice(mixtral_tokenizer(), strips=True)
    hi, there, stop = said_ids(15359, 736, 28808)
    assert [entry["token"] for entry in voice.feed(hi)] == ["Hi"]
    assert voice.feed(Step(0, there.token, "")) == []  # may be the beginning of " there!"
    assert voice.feed(Step(0, stop.token, "", Finish("stop", " there!"))) == []


def test_after_a_prefix_the_first_blank_is_shown() -> None:
    voice = Voice(mixtral_tokenizer(), strips=False)
    (entry,) = voice.feed(Step(0, TokenInfo(736, -0.5), " there"))
    assert entry["token"] == " there"


def test_prompt_log_probabilities() -> None:
    prompt = [TokenInfo(1), TokenInfo(15359, -2.0, ((736, -0.5),))]
    assert prompt_logprobs(mixtral_tokenizer(), prompt) == [
        None,
        {
            "736": {"logprob": -0.5, "rank": 1, "decoded_token": " there"},
            "15359": {"logprob": -2.0, "rank": None, "decoded_token": " Hi"},
        },
    ]


def test_usage_adds_up() -> None:
    from octuor.engine.request import Prompt, Request

    ask = Request(Prompt([1]))
    jobs = [FakeJob(ask, 3, 1, 2), FakeJob(ask, 4, 0, 5)]
    assert usage_of(jobs) == {
        "prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 1},
    }  # fmt: skip
