"""Who counts tokens: servers in two dialects, or a tokenizer on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fake_openai import Asked, FakeServer, answer_as_asked, serving, tokenize, whole
from octuor.api import POCKET
from octuor.bench.serve.client import connect
from octuor.bench.serve.counting import local_count, server_count
from octuor.bench.serve.words import Count
from octuor.errors import CheckpointError, RequestError
from octuor.tokenizer import encode_chat, encode_prompt, find_mistral_common_tokenizer, open_tokenizer
from octuor.tools.synth import synth
from tiny_models import TINY

Small = dict[str, Callable[[Asked], bytes]]


def llama_tokenize(asked: Asked) -> bytes:
    """As llama-server does, which knows no "prompt"."""
    text = asked.body.get("content", "")
    return whole({"tokens": list(range(len(text.split()) + 1)) if text else []})


def llama_template(asked: Asked) -> bytes:
    return whole({"prompt": "[INST] " + asked.body["messages"][0]["content"] + " [/INST]"})


def counted(small: Small, endpoint: str, text: str) -> int | None:
    """What the server found there counts; None: nobody."""

    async def main() -> int | None:
        async with serving(FakeServer(answer_as_asked, small)) as fake, connect(fake.url, "chat") as client:
            count = await server_count(client, endpoint, "fake-1")
            return None if count is None else await count(text)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("small", "completion", "chat"),
    [
        ({"/tokenize": tokenize}, 4, 6),
        ({"/tokenize": llama_tokenize, "/apply-template": llama_template}, 4, 6),
        ({"/tokenize": llama_tokenize}, 4, None),
        ({"/tokenize": lambda _: whole({"error": "no"}, 401)}, None, None),
        ({"/tokenize": lambda _: whole([])}, None, None),
        ({}, None, None),
    ],
)
def test_servers(small: Small, completion: int | None, chat: int | None) -> None:
    assert counted(small, "completions", "one two three") == completion
    assert counted(small, "chat", "one two three") == chat


async def count(by: Count, text: str) -> int:
    return await by(text)


def test_a_models_own_tokenizer() -> None:
    tokenizer = open_tokenizer(find_mistral_common_tokenizer())
    for source in (str(POCKET), str(find_mistral_common_tokenizer())):
        for text in ("time", "time year people"):
            chat = encode_chat(tokenizer, [{"role": "user", "content": text}])
            assert asyncio.run(count(local_count(source, "chat"), text)) == len(chat)
            assert asyncio.run(count(local_count(source, "completions"), text)) == len(encode_prompt(tokenizer, text))


def test_models_without_a_tokenizer(tmp_path: Path) -> None:
    synth(tmp_path / "x.octuor", replace(TINY, n_layers=1), "q8")
    with pytest.raises(RequestError, match=r"--tokenizer: expected a model with a tokenizer, .*x.octuor has none"):
        local_count(str(tmp_path / "x.octuor"), "chat")
    with pytest.raises(CheckpointError, match="no such file"):
        local_count(str(tmp_path / "none.octuor"), "chat")
