"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from octuor.server.routes.embeddings import cut, in_base64
from octuor.server.schemas.embeddings import EmbeddingList
from server.fake_engine import says
from server.http_client import Client, error_of, pocket

PATH = "/v1/embeddings"


def embed(client: Client, **fields: Any) -> EmbeddingList:
    answer = client.post(PATH, {"model": "mistral-embed", **fields})
    assert answer.status_code == 200, answer.text
    return TypeAdapter(EmbeddingList).validate_python(answer.json(), extra="forbid")


def test_one_text() -> None:
    client = Client(says(dim=4))
    answer = embed(client, input="Hello")
    assert answer["data"] == [{"object": "embedding", "index": 0, "embedding": [0.0, 0.0, 1.0, 0.0]}]
    assert (answer["object"], answer["model"]) == ("list", "mistral-embed")
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (2, 0)
    (request,) = client.engine.requests
    assert (request.pooled, list(request.prompt.ids)) == (True, [1, 22557])


def test_many_texts_keep_their_order() -> None:
    """More than the engine gets at a time; each vector says how long its text was."""
    texts = ["a " * (place % 7) for place in range(300)]
    answer = embed(Client(says(dim=16)), input=texts)
    assert [entry["index"] for entry in answer["data"]] == list(range(300))
    lengths = [int(np.argmax(entry["embedding"])) for entry in answer["data"]]
    assert lengths == [embed_length(text) for text in texts]


def embed_length(text: str) -> int:
    return (1 + len(pocket().tokenizer.encode(text))) % 16


@pytest.mark.parametrize(("given", "n"), [([5, 6, 7], 1), ([[5], [6, 7]], 2), ([""], 1)])
def test_ids_and_nothing(given: object, n: int) -> None:
    assert len(embed(Client(), input=given)["data"]) == n


def test_base64_is_little_endian_float32() -> None:
    (entry,) = embed(Client(says(dim=4)), input="Hello", encoding_format="base64")["data"]
    assert isinstance(entry["embedding"], str)
    assert np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("field", ["dimensions", "output_dimension"])
def test_fewer_dimensions(field: str) -> None:
    (entry,) = embed(Client(says(dim=4)), input="Hello", **{field: 3})["data"]
    assert entry["embedding"] == [0, 0, 1]


def test_a_cut_vector_has_length_one() -> None:
    vector = (np.array([3, 4, 12]) / 13).astype(np.float32)
    assert np.allclose(cut(vector, 2), [0.6, 0.8])
    assert cut(vector, 3) is vector
    assert cut(np.array([0, 1], np.float32), 1).tolist() == [0]
    assert in_base64(np.array([1], np.float32)) == "AACAPw=="


def test_a_text_may_fill_the_context() -> None:
    assert len(embed(Client(), input=[5] * 1024)["data"]) == 1


@pytest.mark.parametrize(
    ("fields", "status", "says_so"),
    [
        ({"input": []}, 422, "input: expected at least 1 items"),
        ({"input": [[]]}, 422, "input.0: expected at least 1 items"),
        ({"input": {}}, 422, "input: expected a valid string, found an object"),
        ({"input": ["a"] * 2049}, 422, "input: expected at most 2048 items"),
        ({"input": "a", "dimensions": 257}, 422, "dimensions: expected at most 256, found 257"),
        ({"input": "a", "dimensions": 0}, 422, "dimensions: expected greater than or equal to 1"),
        ({"input": "a", "encoding_format": "hex"}, 422, "encoding_format: expected 'float' or 'base64'"),
        ({"input": [5] * 1025}, 400, "This model's maximum context length is 1024 tokens."),
        ({"input": "a", "model": "ada-002"}, 404, "ada-002"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], status: int, says_so: str) -> None:
    assert says_so in error_of(Client().post(PATH, {"model": "mistral-embed", **fields}), status)["message"]
