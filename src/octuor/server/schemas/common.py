"""Building stones of requests and answers that dialects share.

Requests: unknown fields are ignored, null means "not given", numbers are numbers and not text, and every list has an
end, looked at before its members are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from octuor.sampling import SamplingParams

MAX_STOPS, MAX_STOP_CHARS = 64, 1000
MAX_BIASES = 1000
MAX_TOP = 20  # alternatives of a token
MAX_INT = 2**31 - 1
MAX_CHOICES = 128
SEED_LOW, SEED_HIGH = -(2**63), 2**64 - 1

T = TypeVar("T")


class RequestModel(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


def _as_integer(value: Any) -> Any:
    """256.0 is what sliders send for 256."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_as_integer)]
# Bounds stand inside, where /openapi.json finds them.
Count = Annotated[int, Field(ge=0, le=MAX_INT), BeforeValidator(_as_integer)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT), BeforeValidator(_as_integer)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(_as_integer)]
Top = Annotated[int, Field(ge=0, le=MAX_TOP), BeforeValidator(_as_integer)]
Seed = Annotated[int, Field(ge=SEED_LOW, le=SEED_HIGH), BeforeValidator(_as_integer)]
TopK = Annotated[int, Field(ge=-1, le=MAX_INT), BeforeValidator(_as_integer)]


def at_most(length: int) -> Callable[[Any], Any]:
    """A check of a list's or text's length that comes before its members are looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | str) and len(value) > length:
            kind = "items" if isinstance(value, list) else "characters"
            raise PydanticCustomError(
                "too_long", "Input should be at most {limit} {kind} long", {"limit": length, "kind": kind}
            )
        return value

    return check


def stops_schema(most: int) -> WithJsonSchema:
    """What the documents say of stop strings: one, or a list of so many at most."""
    text = {"type": "string", "maxLength": MAX_STOP_CHARS}
    return WithJsonSchema({"anyOf": [text, {"type": "array", "items": text, "maxItems": most}]})


def _stops(value: Any) -> Any:
    """One string is a list of one; empty ones, which programs send for none, are left out."""
    value = at_most(MAX_STOPS)([value] if isinstance(value, str) else value)
    if not isinstance(value, list):
        return value
    return [stop for stop in value if stop != ""]


Stops = Annotated[
    Annotated[list[Annotated[str, BeforeValidator(at_most(MAX_STOP_CHARS))]], Field(fail_fast=True)],
    BeforeValidator(_stops),
    stops_schema(MAX_STOPS),
]


def _biases(value: Any) -> Any:
    """Keys are token ids in text. A list is what huggingface_hub's types promise, and nobody's ids: ignored."""
    if isinstance(value, list):
        return {}
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIASES:
        raise PydanticCustomError("too_long", "Input should be at most {limit} items long", {"limit": MAX_BIASES})
    if not all(isinstance(key, str) and key.isdecimal() and key.isascii() and len(key) < 10 for key in value):
        raise PydanticCustomError("int_parsing", "Input should be an object with token ids as keys")
    return {int(key): bias for key, bias in value.items()}


Biases = Annotated[
    dict[int, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_biases),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "maxProperties": MAX_BIASES,
                    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                },
                {"type": "array", "items": {}, "description": "Ignored."},
            ]
        }
    ),
]


class StreamOptions(RequestModel):
    """OpenAI's: whether usage comes in a chunk of its own."""

    include_usage: bool | None = None


class Sampling(RequestModel):
    """What `/v1/chat/completions` and `/v1/completions` have in common: how tokens are chosen, when answers end."""

    model: str = Field(description="Any name or alias that /v1/models lists.", examples=["mistral-small"])
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token always.")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: TopK | None = Field(None, description="0 and -1: all tokens.")
    min_p: float | None = Field(None, ge=0, le=1)
    max_tokens: Count | None = None
    min_tokens: Count | None = None
    seed: Seed | None = None
    random_seed: Seed | None = Field(None, description="Mistral's word for seed.")
    stop: Stops | None = Field(None, description="Where the answer ends; not part of it.")
    n: Choices | None = Field(None, description="Answers to each prompt.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    logit_bias: Biases | None = Field(None, description="Token ids, and what is added to their logits.")
    ignore_eos: bool | None = Field(None, description="Go on until max_tokens or the context's end.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether usage is to come in an event of its own."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def params(self, *, temperature: float, max_tokens: int | None, room: int, logprobs: int | None) -> SamplingParams:
        """What the engine is asked for.

        temperature  where the request names none
        max_tokens   the request's, whatever it is called there; None: to the context's end
        room         tokens that the context leaves for an answer

        Raises RequestError where fields contradict each other.
        """
        limit = room if max_tokens is None else max_tokens
        return SamplingParams(
            temperature=_or(self.temperature, temperature),
            top_k=max(0, _or(self.top_k, 0)),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            logit_bias=_or(self.logit_bias, {}),
            min_tokens=limit if self.ignore_eos else _or(self.min_tokens, 0),
            max_tokens=max_tokens,
            seed=self.random_seed if self.seed is None else self.seed,
            stop=tuple(self.stop or ()),
            logprobs=logprobs,
        )


class PromptTokensDetails(TypedDict):
    """Of the prompt, tokens that were not computed again."""

    cached_tokens: int


class Usage(TypedDict):
    """What an answer took; a prompt counts once, whatever n is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ErrorDetail(TypedDict):
    """One field that is wrong."""

    loc: list[str | int]
    msg: str
    type: str


class InnerError(TypedDict):
    """An error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(InnerError):
    """Every error under /v1: in Mistral's form, with OpenAI's inside; detail comes with 422."""

    object: str
    error: InnerError
    detail: NotRequired[list[ErrorDetail]]


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
