"""Tokenizing in three dialects: TGI's `inputs`, vLLM's `prompt` or `messages`, llama-server's `content`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from octuor.server.schemas.chat import MAX_MESSAGES, Message, Objects
from octuor.server.schemas.common import MAX_INT, RequestModel, at_most

MAX_BYTES = 500_000  # of a text or a conversation: as many tokens at most, and 500 bytes of memory for each
MAX_IDS = 1_000_000


def utf8_length(text: str) -> int:
    """Bytes of a text, which may hold halves of surrogate pairs."""
    return len(text.encode("utf-8", "surrogatepass"))


def _bounded(text: str) -> str:
    if (found := utf8_length(text)) > MAX_BYTES:
        words = "Input should be at most {limit} bytes long, found {found}"
        raise PydanticCustomError("too_long", words, {"limit": MAX_BYTES, "found": found})
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_bounded), Field(json_schema_extra={"maxLength": MAX_BYTES})]

Messages: TypeAlias = Annotated[
    list[Message], Field(fail_fast=True), BeforeValidator(at_most(MAX_MESSAGES)), Field(min_length=1)
]


class Conversation(RequestModel):
    """What is said, and the tools that the model is told of, as for /v1/chat/completions."""

    messages: Messages | None = Field(None, description="vLLM: tokens, count and max_model_len of a conversation.")
    tools: Objects | None = None
    model: str | None = Field(None, description="Any name that /v1/models lists; the default model without one.")


class TokenizeRequest(Conversation):
    """A text, by one of four names; the name decides what the answer looks like."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": kind}}}
                for name, kind in (
                    ("inputs", "string"),
                    ("prompt", "string"),
                    ("content", "string"),
                    ("messages", "array"),
                )
            ]
        }
    )

    inputs: Text | None = Field(None, description="TGI: the answer is a list of ids with their texts and places.")
    prompt: Text | None = Field(None, description="vLLM: tokens, count and max_model_len.")
    content: Text | None = Field(None, description="llama-server: tokens.")
    add_special_tokens: bool | None = Field(None, description="BOS before inputs and prompt; default true.")
    add_generation_prompt: bool | None = Field(
        None, description="vLLM: false lets messages end with the assistant's; Mixtral's format has no such prompt."
    )
    return_token_strs: bool | None = Field(None, description="vLLM: each token's text too.")
    add_special: bool | None = Field(None, description="llama-server: BOS before content; default false.")
    parse_special: bool | None = Field(
        None, description='llama-server: "<s>" and "</s>" are control tokens; default true.'
    )
    with_pieces: bool | None = Field(None, description="llama-server: each token with its text.")


class ChatTokenizeRequest(Conversation):
    """A conversation for the model to answer."""

    messages: Messages


class DetokenizeRequest(RequestModel):
    """Ids to be read as text."""

    tokens: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_INT)]], Field(fail_fast=True), BeforeValidator(at_most(MAX_IDS))
    ]
    model: str | None = None


class SimpleToken(TypedDict):
    """TGI: a token and the characters it stands for, [start, stop)."""

    id: int
    text: str
    start: int
    stop: int


class TokenizeCount(TypedDict):
    """vLLM."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None


class Piece(TypedDict):
    """llama-server: a token's text, or its bytes where they are a part of a character."""

    id: int
    piece: str | list[int]


class TokenizePieces(TypedDict):
    """llama-server."""

    tokens: list[int] | list[Piece]


class ChatTokenizeResponse(TypedDict):
    """TGI: the tokens of a conversation, and the text that they are."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class DetokenizeResponse(TypedDict):
    """The same text for vLLM's clients and llama-server's."""

    prompt: str
    content: str


TokenizeResponse: TypeAlias = list[SimpleToken] | TokenizeCount | TokenizePieces
