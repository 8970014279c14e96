"""TGI's requests and answers, with its limits in its words: "`temperature` must be strictly positive".

A validator says what a value must be; the error handler writes the field's name before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from typing_extensions import TypedDict

from octuor.server.schemas.common import MAX_INT, MAX_STOP_CHARS, Int, RequestModel, at_most, stops_schema

MAX_BEST_OF = 4
MAX_STOP_SEQUENCES = 4
MAX_TOP_N_TOKENS = 5
DEFAULT_MAX_NEW_TOKENS = 100  # TGI's up to 2.4, and what huggingface_hub documents; TGI 3 goes to the context's end

FinishReason: TypeAlias = Literal["length", "eos_token", "stop_sequence"]


def _must_be(wanted: str, holds: Callable[[Any], bool]) -> AfterValidator:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(wanted.format(value))
        return value

    return AfterValidator(check)


def _limits(**schema: Any) -> Any:
    """Limits for the OpenAPI document; the check itself speaks TGI's words."""
    return Field(json_schema_extra=schema)


_POSITIVE = _must_be("strictly positive", lambda value: value > 0)
_Positive = Annotated[float, _POSITIVE, _limits(exclusiveMinimum=0)]
_Repetition = Annotated[
    float,
    _POSITIVE,
    _must_be(">= 0.01 and <= 100", lambda value: 0.01 <= value <= 100),
    _limits(minimum=0.01, maximum=100),
]
_PositiveInt = Annotated[
    Int,
    _POSITIVE,
    _must_be(f"<= {MAX_INT}", lambda value: value <= MAX_INT),
    _limits(exclusiveMinimum=0, maximum=MAX_INT),
]
_Fraction = Annotated[
    float, _must_be("> 0.0 and < 1.0", lambda value: 0 < value < 1), _limits(exclusiveMinimum=0, exclusiveMaximum=1)
]
_Penalty = Annotated[
    float, _must_be(">= -2.0 and <= 2.0", lambda value: -2 <= value <= 2), _limits(minimum=-2, maximum=2)
]
_Seed = Annotated[
    Int, _must_be(">= 0 and < 2^64", lambda value: 0 <= value < 2**64), _limits(minimum=0, maximum=2**64 - 1)
]
_BestOf = Annotated[
    Int,
    _must_be(f"> 0 and <= {MAX_BEST_OF}. Given: {{}}", lambda value: 0 < value <= MAX_BEST_OF),
    _limits(minimum=1, maximum=MAX_BEST_OF),
]
_TopN = Annotated[
    Int,
    _must_be(f">= 0 and <= {MAX_TOP_N_TOKENS}. Given: {{}}", lambda value: 0 <= value <= MAX_TOP_N_TOKENS),
    _limits(minimum=0, maximum=MAX_TOP_N_TOKENS),
]


_Text = Annotated[str, _limits(minLength=1)]


def _stops(value: Any) -> Any:
    """One string is a list of one; empty ones, which programs send for none, are left out."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return value
    if len(value) > MAX_STOP_SEQUENCES:
        raise ValueError(f"a list of up to {MAX_STOP_SEQUENCES} stop sequences. Given: {len(value)}")
    return [stop for stop in value if stop != ""]


_Stops = Annotated[
    list[Annotated[str, BeforeValidator(at_most(MAX_STOP_CHARS))]],
    BeforeValidator(_stops),
    stops_schema(MAX_STOP_SEQUENCES),
]


# What there is not: whoever asks for it shall know.
_NoWatermark = Annotated[
    bool,
    _must_be("false: this server does not mark its texts", lambda value: not value),
    WithJsonSchema({"type": "boolean", "const": False}),
]
_NoAdapter = Annotated[
    str,
    _must_be("null: this server has no adapters", lambda value: not value),
    WithJsonSchema({"type": "string", "maxLength": 0}),
]


class GrammarParameter(RequestModel):
    """What the answer must match: a JSON schema (also as text), or a regular expression."""

    type: Literal["json", "json_object", "json_schema", "regex"]
    value: Any = None


class GenerateParameters(RequestModel):
    """How to answer; greedy unless do_sample, temperature, top_k, top_p or typical_p asks for sampling."""

    best_of: _BestOf | None = Field(default=None, description="Answers to choose from, by the sum of their logprobs.")
    temperature: _Positive | None = None
    repetition_penalty: _Repetition | None = None
    frequency_penalty: _Penalty | None = None
    top_k: _PositiveInt | None = None
    top_p: _Fraction | None = None
    typical_p: _Fraction | None = None
    do_sample: bool | None = None
    max_new_tokens: _PositiveInt | None = Field(default=None, description=f"Default {DEFAULT_MAX_NEW_TOKENS}.")
    return_full_text: bool | None = Field(
        default=None, description="The prompt before the text; on / true is the default."
    )
    stop: _Stops | None = Field(default=None, description="Strings that end the answer, as a part of it.")
    truncate: _PositiveInt | None = Field(default=None, description="Keep only the last tokens of the prompt.")
    watermark: _NoWatermark | None = None
    details: bool | None = None
    decoder_input_details: bool | None = Field(
        default=None, description="Logprobs of the prompt's tokens, with details."
    )
    seed: _Seed | None = None
    top_n_tokens: _TopN | None = None
    grammar: GrammarParameter | None = None
    adapter_id: _NoAdapter | None = None

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn."""
        wishes = (self.temperature, self.top_k, self.top_p, self.typical_p)
        return bool(self.do_sample) or any(wish is not None for wish in wishes)


class GenerateRequest(RequestModel):
    """A prompt that carries its own marks: "<s>[INST] Hello [/INST]"; "<s>" and "</s>" are control tokens in it."""

    inputs: _Text = Field(examples=["[INST] Name three moons of Jupiter. [/INST]"])
    parameters: GenerateParameters | None = None


class CompatGenerateRequest(GenerateRequest):
    """The same for /, which streams where it is asked to."""

    stream: bool | None = None


class Token(TypedDict):
    """A token of an answer. special: a control token, which the text does not have."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(TypedDict):
    """A token of a prompt; nothing foretells the first."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(TypedDict):
    """An answer that another one has beaten."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: NotRequired[list[list[Token]]]


class Details(TypedDict):
    """How an answer came about."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: NotRequired[list[list[Token]]]
    best_of_sequences: NotRequired[list[BestOfSequence]]


class GenerateResponse(TypedDict):
    """A whole answer; details only where they were asked for."""

    generated_text: str
    details: NotRequired[Details]


class StreamDetails(TypedDict):
    """How a streamed answer ended."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamResponse(TypedDict):
    """One event of a stream. index counts from 1; the last event has the whole text."""

    index: int
    token: Token
    top_tokens: NotRequired[list[Token]]
    generated_text: str | None
    details: StreamDetails | None


class ErrorResponse(TypedDict):
    """An error on the three routes of generation; error_type is missing where only the status tells."""

    error: str
    error_type: NotRequired[Literal["validation", "generation", "overloaded", "incomplete_generation"]]


class Info(TypedDict):
    """What serves, and its limits."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None
