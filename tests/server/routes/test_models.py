"""GET /v1/models."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from octuor.server.registry import PLATFORM_NAMES
from octuor.server.schemas.models import ModelCard, ModelList
from server.http_client import Client, error_of


def test_models_are_listed_even_with_a_body() -> None:
    """MistralClient sends {} with this GET."""
    answer = Client().request("GET", "/v1/models", json={})
    cards = TypeAdapter(ModelList).validate_python(answer.json(), extra="forbid")["data"]
    assert [card["id"] for card in cards] == ["pocket", *PLATFORM_NAMES]


@pytest.mark.parametrize("name", ["pocket", "mistral-tiny", "mistralai/Mixtral-8x7B-Instruct-v0.1", "dummy"])
def test_a_model_by_any_of_its_names(name: str) -> None:
    card = TypeAdapter(ModelCard).validate_python(Client().get(f"/v1/models/{name}").json(), extra="forbid")
    assert (card["id"], card["root"], card["type"], card["deprecation"]) == (name, "pocket", "base", None)
    assert card["max_context_length"] == 1024
    assert card["default_model_temperature"] == 0.7
    assert card["permission"][0]["object"] == "model_permission"
    assert name not in card["aliases"]
    assert {"pocket", "mistral-small", "tgi"} - {name} <= set(card["aliases"])


def test_the_embedding_model_does_not_chat() -> None:
    capabilities = Client().get("/v1/models/mistral-embed").json()["capabilities"]
    assert capabilities["completion_chat"] is False


def test_unknown_models() -> None:
    body = error_of(Client().get("/v1/models/gpt-4"), 404)
    assert body["code"] == "model_not_found"
    assert "gpt-4" in body["message"]
