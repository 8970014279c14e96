"""POST /v1/embeddings: texts to vectors."""

from __future__ import annotations

import base64
import secrets
from typing import Annotated

import numpy as np
from fastapi import Depends
from numpy.typing import NDArray
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from octuor.engine.request import Pooled, Request
from octuor.server.answering import Caller, answering, caller_of
from octuor.server.chat_shape import usage_of
from octuor.server.connection import while_connected
from octuor.server.errors import invalid
from octuor.server.json_text import dumps
from octuor.server.prompts import check_room, text_prompts
from octuor.server.registry import Served
from octuor.server.route import keyed_router
from octuor.server.schemas.completions import as_list
from octuor.server.schemas.embeddings import Embedding, EmbeddingList, EmbeddingRequest

router = keyed_router("embeddings")


@router.post("/v1/embeddings", response_model=EmbeddingList)
async def embeddings(
    body: EmbeddingRequest, http: HttpRequest, caller: Annotated[Caller, Depends(caller_of)]
) -> Response:
    """The direction of the mean of a text's last hidden states, for each text."""
    served = caller.find(body.model)
    dim = served.model.config.dim
    n_kept = body.dimensions or body.output_dimension or dim
    if n_kept > dim:
        raise invalid(f"dimensions: expected at most {dim}, found {n_kept}", "dimensions")
    prompts = await text_prompts(served, as_list(body.input), "input")
    for prompt in prompts:
        check_room(served, len(prompt.ids), 0, "input")
    requests = [Request(prompt, tenant=caller.key.id, pooled=True, name=caller.record.request_id) for prompt in prompts]
    answer = await while_connected(http.receive, _answer(caller, served, requests, body, n_kept))
    return Response(answer, media_type="application/json")


async def _answer(
    caller: Caller, served: Served, requests: list[Request], body: EmbeddingRequest, n_kept: int
) -> bytes:
    """The answer, written vector by vector: thousands at once would keep everybody waiting."""
    entries: dict[int, bytes] = {}
    async with answering(caller, served, requests) as listening:
        async for place, event in listening:
            if isinstance(event, Pooled):
                vector = cut(event.vector, n_kept)
                entry: Embedding = {
                    "object": "embedding",
                    "index": place,
                    "embedding": in_base64(vector) if body.encoding_format == "base64" else vector.tolist(),
                }
                entries[place] = dumps(entry)
    answer: EmbeddingList = {
        "id": f"embd-{secrets.token_hex(16)}",
        "object": "list",
        "model": body.model,
        "usage": usage_of(listening.jobs),
        "data": [],
    }
    data = b",".join(entries[place] for place in sorted(entries))
    return dumps(answer).removesuffix(b"]}") + data + b"]}"


def cut(vector: NDArray[np.float32], n_kept: int) -> NDArray[np.float32]:
    """The first numbers of a vector, at length 1 again; zeros stay zeros."""
    if n_kept == len(vector):
        return vector
    kept = vector[:n_kept]
    return kept / np.float32(max(float(np.linalg.norm(kept)), 1e-30))


def in_base64(vector: NDArray[np.float32]) -> str:
    """Its bytes as OpenAI's clients decode them: little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
