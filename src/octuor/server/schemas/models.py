"""Model cards, with what OpenAI's, Mistral's and vLLM's clients look for."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class Permission(TypedDict):
    """OpenAI's of 2023; clients of then print it."""

    id: str
    object: Literal["model_permission"]
    created: int
    allow_create_engine: bool
    allow_sampling: bool
    allow_logprobs: bool
    allow_search_indices: bool
    allow_view: bool
    allow_fine_tuning: bool
    organization: str
    group: str | None
    is_blocking: bool


class Capabilities(TypedDict):
    """What a model can be asked for."""

    completion_chat: bool
    completion_fim: bool
    function_calling: bool
    fine_tuning: bool
    vision: bool
    classification: bool


class ModelCard(TypedDict):
    """A model under one of its names."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    type: Literal["base", "fine-tuned"]
    name: str
    description: str
    max_context_length: int
    max_model_len: int
    aliases: list[str]
    deprecation: str | None
    default_model_temperature: float
    capabilities: Capabilities
    permission: list[Permission]


class ModelList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]
