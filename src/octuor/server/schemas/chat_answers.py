"""POST /v1/chat/completions: what is answered."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from octuor.server.schemas.common import Usage

Reason = Literal["stop", "length", "tool_calls"]


class TopLogprob(TypedDict):
    """A token that might have come. bytes: what it adds to the text, in UTF-8."""

    token: str
    token_id: int
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    """Of the tokens of one answer, or of one chunk."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(TypedDict):
    """arguments: JSON in a string."""

    name: str
    arguments: str


class CalledTool(TypedDict):
    """A call that the model wants made. id: nine letters and digits."""

    id: str
    type: Literal["function"]
    index: int
    function: CalledFunction


class AnswerMessage(TypedDict):
    """What the assistant said; content is "" beside calls."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[CalledTool] | None


class Choice(TypedDict):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Reason


class PromptLogprob(TypedDict):
    """vLLM's. rank: 1 is the likeliest; None where it is not among those asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


class ChatCompletion(TypedDict):
    """All answers to a conversation. prompt_logprobs: where asked for; null for the first token."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    prompt_logprobs: NotRequired[list[dict[str, PromptLogprob] | None]]


class Delta(TypedDict, total=False):
    """What a chunk adds to an answer."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[CalledTool]


class ChunkChoice(TypedDict):
    """A chunk's part of one answer."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: Reason | None


class ChatChunk(TypedDict):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]
