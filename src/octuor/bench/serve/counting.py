"""Who counts a prompt's tokens: the server, in the dialect it speaks, or the model's tokenizer on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octuor.bench.serve.words import Count
from octuor.errors import RequestError

if TYPE_CHECKING:
    from octuor.bench.serve.client import Client


def local_count(source: str, endpoint: str) -> Count:
    """By the tokenizer of a pack, a folder, a Hub id or a tokenizer's own file, in the Instruct format for chats.

    Raises TokenizerError, CheckpointError.
    """
    from octuor.tokenizer import encode_chat, encode_prompt, open_tokenizer

    tokenizer = open_tokenizer(_tokenizer_file(source))

    async def count(text: str) -> int:
        if endpoint == "chat":
            return len(encode_chat(tokenizer, [{"role": "user", "content": text}]))
        return len(encode_prompt(tokenizer, text))

    return count


def _tokenizer_file(source: str) -> Any:
    """What open_tokenizer takes: a path, or the bytes that a checkpoint carries."""
    from pathlib import Path

    from octuor.checkpoint import open_checkpoint

    path = Path(source).expanduser()
    if path.is_file() and path.suffix in {".json", ".model", ".v1", ".v2", ".v3"}:
        return path
    checkpoint = open_checkpoint(source)
    if checkpoint.tokenizer is None:
        raise RequestError(f"--tokenizer: expected a model with a tokenizer, {source} has none; name another")
    return checkpoint.tokenizer


async def server_count(client: Client, endpoint: str, model: str) -> Count | None:
    """By the server's own /tokenize in the dialect of vLLM or of llama-server; None where it has neither."""
    for count in (_vllm_count(client, endpoint, model), _llama_count(client, endpoint)):
        try:
            await count("time")
        except _NotSpokenError:
            continue
        return count
    return None


class _NotSpokenError(Exception):
    """The server answered a request of this dialect with something else."""


def _vllm_count(client: Client, endpoint: str, model: str) -> Count:
    async def count(text: str) -> int:
        ask: dict[str, Any] = {"model": model}
        ask |= {"messages": [{"role": "user", "content": text}]} if endpoint == "chat" else {"prompt": text}
        body = (await client.ask("POST", "/tokenize", ask)).body
        if not isinstance(body, dict) or not isinstance(body.get("count"), int):
            raise _NotSpokenError
        return int(body["count"])

    return count


def _llama_count(client: Client, endpoint: str) -> Count:
    async def count(text: str) -> int:
        if endpoint == "chat":
            messages = [{"role": "user", "content": text}]
            body = (await client.ask("POST", "/apply-template", {"messages": messages})).body
            if not isinstance(body, dict) or not isinstance(body.get("prompt"), str):
                raise _NotSpokenError
            text = body["prompt"]
        ask = {"content": text, "add_special": True, "parse_special": True}
        body = (await client.ask("POST", "/tokenize", ask)).body
        if not isinstance(body, dict) or not isinstance(body.get("tokens"), list):
            raise _NotSpokenError
        return len(body["tokens"])

    return count
