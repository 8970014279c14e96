"""POST /v1/chat/completions: what is asked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from octuor.server.schemas.common import MAX_INT, MAX_TOP, Int, RequestModel, Sampling, at_most

MAX_MESSAGES = 16_384  # no context holds as many that say something
MAX_PARTS = 1024
MAX_TOOLS = 128


class TextPart(RequestModel):
    """A piece of a message."""

    type: Literal["text"] = "text"
    text: str


def _content_kind(value: object) -> str:
    return "list" if isinstance(value, list) else "str"


Content = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[TextPart], Field(fail_fast=True), BeforeValidator(at_most(MAX_PARTS)), Tag("list")],
    Discriminator(_content_kind),
]


class FunctionCall(RequestModel):
    """What an assistant wanted called. arguments: JSON in a string, or an object."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(RequestModel):
    """One call; `type` and `index` may be left out."""

    id: str | None = None
    function: FunctionCall


class Message(RequestModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    prefix: bool | None = Field(None, description="On a last, assistant message: the answer begins with it.")
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), BeforeValidator(at_most(MAX_TOOLS))] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The content, parts joined by an empty line."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n\n".join(part.text for part in self.content if part.text)


class Function(RequestModel):
    """A function that may be called. parameters: a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool; there are only functions."""

    type: Literal["function"] | None = None
    function: Function


class NamedFunction(RequestModel):
    """A function by its name."""

    name: str


class NamedTool(RequestModel):
    """The tool that must be called."""

    type: Literal["function"] | None = None
    function: NamedFunction


class JsonSchema(RequestModel):
    """A schema with a name."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestModel):
    """What the answer has to be, in every client's spelling."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: JsonSchema | None = None
    value: dict[str, Any] | str | bool | None = Field(None, description="TGI's: a schema, or an expression.")


def _tool_choice(value: Any) -> Any:
    if isinstance(value, str) and value not in ("auto", "none", "any", "required"):
        raise PydanticCustomError("literal_error", "Input should be 'auto', 'none', 'any', 'required' or an object")
    return value


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "any", "required"], Tag("str")] | Annotated[NamedTool, Tag("NamedTool")],
    Discriminator(lambda value: "str" if isinstance(value, str) else "NamedTool"),
    BeforeValidator(_tool_choice),
]


class ChatRequest(Sampling):
    """A conversation to be answered."""

    messages: Annotated[
        list[Message], Field(fail_fast=True), BeforeValidator(at_most(MAX_MESSAGES)), Field(min_length=1)
    ]
    max_completion_tokens: Int | None = Field(None, ge=0, le=MAX_INT, description="OpenAI's word for max_tokens.")
    safe_prompt: bool | None = Field(None, description="Ask for care and respect in a system message.")
    safe_mode: bool | None = Field(None, description="The word for safe_prompt in 2023.")
    logprobs: bool | None = None
    top_logprobs: Int | None = Field(None, ge=0, le=MAX_TOP)
    prompt_logprobs: Int | None = Field(None, ge=0, le=MAX_TOP)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True), BeforeValidator(at_most(MAX_TOOLS))] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, under either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def n_top(self) -> int | None:
        """Alternatives beside each token's log-probability; None: none of it is wanted."""
        if self.logprobs or (self.logprobs is None and self.top_logprobs is not None):
            return self.top_logprobs or 0
        return None
