"""GET /v1/models."""

from __future__ import annotations

from server.http_client import Client


def test_models_are_listed_even_with_a_body() -> None:
    answer = Client().request("GET", "/v1/models", json={})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["id"] == "pocket"


def test_unknown_models_are_404() -> None:
    answer = Client().get("/v1/models/gpt-4")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "gpt-4" in answer.json()["message"]
