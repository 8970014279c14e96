"""POST /v1/embeddings: what is asked and answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from octuor.server.schemas.common import Positive, RequestModel, Usage
from octuor.server.schemas.completions import Texts


class EmbeddingRequest(RequestModel):
    """Texts to be turned into vectors."""

    model: str = Field(description="mistral-embed, or any name that /v1/models lists.", examples=["mistral-embed"])
    input: Texts
    encoding_format: Literal["float", "base64"] | None = Field(None, description="base64: little-endian float32.")
    dimensions: Positive | None = Field(None, description="Keep the first ones, at length 1 again.")
    output_dimension: Positive | None = Field(None, description="Mistral's word for dimensions.")
    output_dtype: Literal["float"] | None = None


class Embedding(TypedDict):
    """One vector of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(TypedDict):
    """A vector for each text, in their order."""

    id: str
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage
