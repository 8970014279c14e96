"""Adapters by name: asked for as models, loaded and unloaded while the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_files import random_adapter
from octuor.api import Model
from octuor.sampling import SamplingParams
from octuor.server.settings import ServerSettings
from server.http_client import HELLO, Client, error_of
from server.live_client import live_client

FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """With a folder of two adapters, both of which may be loaded."""
    with live_client() as found:
        for n, name in enumerate(("one", "two")):
            random_adapter(tmp_path / name, base(found).config, n, alpha=60.0, targets=("attention",))
        found.serving.settings = ServerSettings(adapter_folder=str(tmp_path))
        yield found


def base(client: Client) -> Model:
    return client.serving.models().default.model


def load(client: Client, name: str, path: str) -> None:
    answer = client.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
    assert answer.text == f"Success: LoRA adapter '{name}' added successfully."


def text(client: Client, model: str) -> str:
    answer = client.chat(model=model, **FIELDS)
    assert answer.json()["model"] == model
    found: str = answer.json()["choices"][0]["message"]["content"]
    return found


def test_each_name_has_its_own_answer(client: Client) -> None:
    plain = text(client, "pocket")
    load(client, "one", "one")
    load(client, "second", "two")
    found = {name: text(client, name) for name in ("pocket", "pocket:one", "one", "mistral-small:second", "second")}
    assert found["pocket"] == plain
    assert found["pocket:one"] == found["one"] == said(client, "one")
    assert found["mistral-small:second"] == found["second"] == said(client, "second")
    assert len(set(found.values())) == 3


def said(client: Client, adapter: str) -> str:
    """Without a server."""
    tokens = base(client).chat(HELLO, SamplingParams(**FIELDS), adapter=adapter)
    return "".join(token.text for token in tokens)


def test_they_are_listed_and_described(client: Client) -> None:
    load(client, "one", "one")
    assert [card["id"] for card in client.get("/v1/models").json()["data"]][:2] == ["pocket", "pocket:one"]
    card = client.get("/v1/models/pocket:one").json()
    assert (card["type"], card["parent"], card["aliases"]) == ("fine-tuned", "pocket", [])
    assert "pocket:one" in error_of(client.chat(model="pocket:none"), 404)["message"]


def test_unloading(client: Client) -> None:
    load(client, "one", "one")
    answer = client.post("/v1/unload_lora_adapter", {"lora_name": "one"})
    assert answer.text == "Success: LoRA adapter 'one' removed successfully."
    error_of(client.chat(model="pocket:one"), 404)
    error_of(client.post("/v1/unload_lora_adapter", {"lora_name": "one"}), 422)


def test_only_from_the_servers_folder(client: Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "other"
    random_adapter(outside, base(client).config, 3, targets=("attention",))
    for name, path in (("x", str(outside)), ("x", "../other"), ("x", "one/../../x"), ("x", "none"), ("a:b", "one")):
        error_of(client.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}), 422)
    assert base(client).adapters.names == ()


def test_not_without_leave() -> None:
    body = error_of(Client().post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "one"}), 403)
    assert body["code"] == "adapters_fixed"
