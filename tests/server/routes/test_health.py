"""Loading, ready, draining."""

from __future__ import annotations

from server.http_client import Client


def test_ready() -> None:
    client = Client()
    for path in ("/health", "/health/ready", "/health/live"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert client.request("HEAD", path).status_code == 200


def test_loading_and_draining_have_reasons() -> None:
    client = Client()
    registry, client.serving.registry = client.serving.registry, None
    loading = client.get("/health/ready")
    assert (loading.status_code, loading.json()["status"]) == (503, "loading")
    assert loading.json()["error"]["code"] == 503
    assert loading.headers["retry-after"] == "5"
    assert client.get("/health/live").status_code == 200
    client.serving.registry, client.serving.is_draining = registry, True
    assert client.get("/health").json()["status"] == "draining"


def test_the_document_knows_them() -> None:
    paths = Client().get("/openapi.json").json()["paths"]
    assert {"/health", "/health/live", "/health/ready", "/metrics"} <= set(paths)
    assert "503" in paths["/health/ready"]["get"]["responses"]
