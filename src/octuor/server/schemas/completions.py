"""POST /v1/completions: what is asked and answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Discriminator, Field, Tag
from typing_extensions import TypedDict

from octuor.server.schemas.common import MAX_INT, Choices, Sampling, Top, Usage, at_most

MAX_PROMPTS = 2048
MAX_IDS = 2**20  # no context holds as many

Ids = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_INT)]],
    Field(min_length=1, fail_fast=True),
    BeforeValidator(at_most(MAX_IDS)),
]


def kind_of_texts(value: object) -> str:
    """Which member of Texts a value is meant to be, by its first item; names of tags stay out of error messages."""
    if not isinstance(value, list):
        return "=text"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "=lists"
    return "=texts" if isinstance(first, str) else "=ids"


Texts = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[list[str], Field(min_length=1, fail_fast=True), BeforeValidator(at_most(MAX_PROMPTS)), Tag("=texts")]
    | Annotated[Ids, Tag("=ids")]
    | Annotated[list[Ids], Field(min_length=1, fail_fast=True), BeforeValidator(at_most(MAX_PROMPTS)), Tag("=lists")],
    Discriminator(kind_of_texts),
]


def as_list(texts: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """One entry a text or list of ids, however they were sent."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts[0], int):
        return [texts]  # type: ignore[list-item]
    return list(texts)  # type: ignore[arg-type]


class CompletionRequest(Sampling):
    """Texts to be continued. Token ids are taken as they are, texts get BOS before them."""

    prompt: Texts
    echo: bool | None = Field(None, description="The text begins with the prompt.")
    logprobs: Top | None = Field(None, description="Alternatives beside each token.")
    best_of: Choices | None = Field(None, description="Only as many as n.")
    suffix: str | None = Field(None, description="Refused: Mixtral does not fill in.")
    response_format: dict[str, Any] | None = None


class CompletionLogprobs(TypedDict):
    """OpenAI's of 2020: four lists of one length. text_offset: characters from the beginning of text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(TypedDict):
    """All texts, or one event's part of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]
