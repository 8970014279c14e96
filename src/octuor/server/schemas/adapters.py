"""Bodies of the routes that load and unload adapters: vLLM's, and which model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from octuor.server.schemas.common import RequestModel

Name = Annotated[str, Field(min_length=1, max_length=200)]


class LoadAdapter(RequestModel):
    """An adapter to load."""

    lora_name: Name
    lora_path: Annotated[str, Field(max_length=1000, description="Of its folder, within the server's adapter_folder.")]
    model: str | None = Field(None, description="The base; default: the first model.")


class UnloadAdapter(RequestModel):
    """An adapter to forget."""

    lora_name: Name
    model: str | None = Field(None, description="The base; default: the first model.")
