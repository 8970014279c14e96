"""POST /v1/chat/completions: what is asked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from octuor.server.schemas.common import Count, RequestModel, Sampling, Top, at_most

MAX_MESSAGES = 16_384  # no context holds as many that say something
MAX_PARTS = 1024
MAX_TOOLS = 128


TOOL_CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NAMED_TOOL = {"type": "function", "function": {"name": "weather"}}

# What octuor.grammar reads, in more spellings than a model of ours could list.
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True), BeforeValidator(at_most(MAX_TOOLS))]
ToolChoice = Annotated[
    Annotated[str, Tag("=text")] | Annotated[dict[str, Any], Tag("=object")],
    Discriminator(lambda value: "=text" if isinstance(value, str) else "=object"),
]


class TextPart(RequestModel):
    """A piece of a message."""

    type: Literal["text"] = "text"
    text: str


def _content_kind(value: object) -> str:
    return "=parts" if isinstance(value, list) else "=text"


Content = Annotated[
    Annotated[str, Tag("=text")]
    | Annotated[list[TextPart], Field(fail_fast=True), BeforeValidator(at_most(MAX_PARTS)), Tag("=parts")],
    Discriminator(_content_kind),
]


class Message(RequestModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    prefix: bool | None = Field(None, description="On a last, assistant message: the answer begins with it.")
    tool_calls: Objects | None = Field(None, description="What the assistant called.", examples=[[TOOL_CALL]])
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def n_chars(self) -> int:
        """Characters of its content."""
        if isinstance(self.content, list):
            return sum(len(part.text) for part in self.content)
        return len(self.content or "")

    def as_dict(self) -> dict[str, object]:
        """The message as octuor.tokenizer and octuor.grammar read it: a string for content."""
        content = self.content
        if isinstance(content, list):
            content = "\n\n".join(part.text for part in content if part.text)
        return {
            "role": self.role,
            "content": content,
            "prefix": self.prefix is True,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
            "name": self.name,
        }


class ChatRequest(Sampling):
    """A conversation to be answered."""

    messages: Annotated[
        list[Message], Field(fail_fast=True), BeforeValidator(at_most(MAX_MESSAGES)), Field(min_length=1)
    ]
    max_completion_tokens: Count | None = Field(None, description="OpenAI's word for max_tokens.")
    safe_prompt: bool | None = Field(None, description="Ask for care and respect in a system message.")
    safe_mode: bool | None = Field(None, description="The word for safe_prompt in 2023.")
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    prompt_logprobs: Top | None = None
    response_format: dict[str, Any] | None = Field(
        None,
        description="type is text, json_object, json_schema, json or regex; docs/http.md has every spelling.",
        examples=[{"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}],
    )
    tools: Objects | None = Field(None, description="Functions that may be called.", examples=[[TOOL]])
    tool_choice: ToolChoice | None = Field(
        None, description="auto, none, any, required, or a function.", examples=["auto", NAMED_TOOL]
    )
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
