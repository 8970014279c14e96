"""From events to /v1/completions. Answers are checked against what /openapi.json says of them."""

from __future__ import annotations

from pydantic import TypeAdapter

from octuor.engine.request import Event, Finish, Prefilled, Step, TokenInfo
from octuor.server.chat_shape import Head
from octuor.server.completion_shape import CompletionShape
from octuor.server.schemas.common import Usage
from octuor.server.schemas.completions import Completion
from server.fake_engine import step
from tokenizer_file import mixtral_tokenizer

USAGE: Usage = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
}
END = Finish("stop")
Said = list[tuple[int, Event]]


def make(
    n: int = 1, echoes: tuple[str, ...] = ("",), *, strips: bool = False, logprobs: bool = False, usage: bool = False
) -> CompletionShape:
    head = Head("mistral-tiny", "cmpl")
    tokenizer = mixtral_tokenizer()
    return CompletionShape(head, tokenizer, n, echoes, [strips] * len(echoes), logprobs=logprobs, include_usage=usage)


def whole(shape: CompletionShape, said: Said) -> Completion:
    for place, event in said:
        shape.add(place, event)
    return TypeAdapter(Completion).validate_python(shape.whole(USAGE), extra="forbid")


def streamed(shape: CompletionShape, said: Said) -> list[Completion]:
    found = [completion for place, event in said for completion in shape.events(place, event)]
    found += shape.end(USAGE)
    return [TypeAdapter(Completion).validate_python(completion, extra="forbid") for completion in found]


def test_texts_of_prompts_follow_each_other() -> None:
    """n for the first prompt, then those of the second, whichever came first."""
    said: Said = [(place, step(f"{place}{choice}", choice=choice, finish=END)) for place in (1, 0) for choice in (1, 0)]
    answer = whole(make(2, ("a", "b")), said)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a00"), (1, "a01"), (2, "b10"), (3, "b11"),
    ]  # fmt: skip
    assert (answer["object"], answer["id"][:5], answer["usage"]) == ("text_completion", "cmpl-", USAGE)


def test_a_stream() -> None:
    said: Said = [(0, Prefilled(0)), (0, step("Hi")), (0, step("")), (0, step(" there", finish=Finish("length")))]
    found = streamed(make(), said)
    assert [(one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in found] == [
        ("Hi", None),
        (" there", "length"),
    ]
    assert ["usage" in one for one in found] == [False, True]


def test_usage_in_an_event_of_its_own() -> None:
    found = streamed(make(usage=True), [(0, step("Hi", finish=END))])
    assert [one["usage"] for one in found] == [None, USAGE]
    assert found[-1]["choices"] == []


def test_an_echo_without_tokens() -> None:
    said: Said = [(0, Prefilled(0)), (0, Step(0, None, "", Finish("length")))]
    assert whole(make(echoes=("Hello",)), said)["choices"][0]["text"] == "Hello"
    assert streamed(make(echoes=("Hello",)), said)[0]["choices"][0]["text"] == "Hello"


def token(token_id: int, logprob: float | None = -0.5) -> TokenInfo:
    return TokenInfo(token_id, logprob, () if logprob is None else ((736, -0.1), (token_id, -0.5)))


def test_log_probabilities_are_lists_of_one_length() -> None:
    """Prompt "Hi" after BOS, answer " there" and EOS: all of them, the first without one, the sampled among the top."""
    prompt = (token(1, None), token(15359))
    said: Said = [
        (0, Prefilled(0, prompt)),
        (0, Step(0, token(736), " there")),
        (0, Step(0, token(2), "", END)),
    ]
    (choice,) = whole(make(echoes=("Hi",), strips=True, logprobs=True), said)["choices"]
    assert choice["text"] == "Hi there"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "Hi", " there", "</s>"],
        "token_logprobs": [None, -0.5, -0.5, -0.5],
        "top_logprobs": [
            None, {"Hi": -0.5, "there": -0.1}, {" there": -0.5}, {"</s>": -0.5, " there": -0.1},
        ],
        "text_offset": [0, 0, 2, 8],
    }  # fmt: skip


def test_offsets_point_into_the_text() -> None:
    """Also where a character takes four tokens."""
    text = "Hi 🦑, é!"
    ids = mixtral_tokenizer().encode(text)
    prompt = (token(1, None), *map(token, ids))
    said: Said = [(0, Prefilled(0, prompt)), (0, Step(0, None, "", Finish("length")))]
    (choice,) = whole(make(echoes=(text,), strips=True, logprobs=True), said)["choices"]
    logprobs = choice["logprobs"]
    assert logprobs is not None
    for label, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not label.startswith(("bytes:", "<")):
            assert text[offset:].startswith(label), (label, offset)


def test_in_a_stream_the_lists_go_on() -> None:
    said: Said = [(0, Step(0, token(15359), " Hi")), (0, Step(0, token(736), " there", END))]
    found = streamed(make(logprobs=True), said)
    first, second = (one["choices"][0]["logprobs"] for one in found)
    assert first is not None
    assert second is not None
    assert (first["tokens"], first["text_offset"]) == ([" Hi"], [0])
    assert (second["tokens"], second["text_offset"]) == ([" there"], [3])
