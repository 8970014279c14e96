"""POST /v1/completions: texts continued, without a chat format."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from octuor.engine.request import Grammar, Prompt, Request
from octuor.grammar import read_response_format
from octuor.server.answering import Caller, answering, caller_of
from octuor.server.chat_shape import Head, usage_of
from octuor.server.completion_shape import CompletionShape
from octuor.server.connection import while_connected
from octuor.server.constraints import constraint
from octuor.server.errors import ApiError, invalid
from octuor.server.json_text import dumps
from octuor.server.prompts import ITEM, check_room, encoded, text_prompts
from octuor.server.registry import Served
from octuor.server.route import keyed_router, streams
from octuor.server.schemas.completions import Completion, CompletionRequest, as_list
from octuor.server.sse import DONE, EventStream, frame

router = keyed_router("completions")

TEMPERATURE = 1.0  # OpenAI's
MAX_TOKENS = 16  # OpenAI's


@router.post("/v1/completions", response_model=Completion, responses=streams(Completion))
async def completions(
    body: CompletionRequest, http: HttpRequest, caller: Annotated[Caller, Depends(caller_of)]
) -> Response:
    """Continue texts, whole or as a stream of events."""
    served = caller.find(body.model)
    _check(body)
    texts = as_list(body.prompt)
    n = body.n or 1
    if len(texts) * n > caller.serving.settings.max_choices:
        raise invalid(
            f"prompt: expected prompts and n for at most {caller.serving.settings.max_choices} texts in all, "
            f"found {len(texts) * n}",
            "prompt",
        )
    prompts = await text_prompts(served, texts, "prompt")
    grammar = await constraint(served, read_response_format(body.response_format), is_chat=False)
    requests = [_request(served, body, prompt, caller, grammar) for prompt in prompts]
    shape = CompletionShape(
        Head(body.model, kind="cmpl"),
        served.tokenizer,
        n,
        [_echo(served, text) if body.echo else "" for text in texts],
        [isinstance(text, str) and body.echo is True for text in texts],
        logprobs=body.logprobs is not None,
        include_usage=body.include_usage,
    )
    if body.stream:
        return EventStream(_frames(caller, served, requests, shape), ping_s=caller.serving.settings.ping_s)
    answer = await while_connected(http.receive, _whole(caller, served, requests, shape))
    return Response(answer, media_type="application/json")


@router.post("/v1/fim/completions", status_code=400, response_model=None)
async def fim() -> Response:
    """Refused: Mixtral was not trained to fill in the middle."""
    raise ApiError(
        400,
        "Mixtral does not fill in the middle: there is no token for it; expected /v1/completions or "
        "/v1/chat/completions, found /v1/fim/completions",
        code="fim_not_supported",
    )


async def _frames(
    caller: Caller, served: Served, requests: list[Request], shape: CompletionShape
) -> AsyncGenerator[bytes, None]:
    async with answering(caller, served, requests) as listening:
        async for place, event in listening:
            for completion in shape.events(place, event):
                yield frame(completion)
    for completion in shape.end(usage_of(listening.jobs)):
        yield frame(completion)
    yield DONE


async def _whole(caller: Caller, served: Served, requests: list[Request], shape: CompletionShape) -> bytes:
    async with answering(caller, served, requests) as listening:
        async for place, event in listening:
            shape.add(place, event)
    usage = usage_of(listening.jobs)
    n_entries = usage["total_tokens"] if requests[0].params.logprobs is not None else 0
    return await encoded(ITEM * n_entries, lambda: dumps(shape.whole(usage)))


def _check(body: CompletionRequest) -> None:
    """What the engine cannot do. Raises ApiError 400 and 422."""
    if body.suffix:
        raise ApiError(
            400,
            "suffix: expected none, found one; Mixtral does not fill in the middle",
            param="suffix",
            code="fim_not_supported",
        )
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise invalid(f"best_of: expected n = {body.n or 1}, found {body.best_of}; ask for n and choose", "best_of")


def _request(
    served: Served, body: CompletionRequest, prompt: Prompt, caller: Caller, grammar: Grammar | None
) -> Request:
    max_tokens = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if body.max_tokens is None:  # the default gives way to the context's end
        max_tokens = min(MAX_TOKENS, max(1, served.n_context - len(prompt.ids)))
    room = check_room(served, len(prompt.ids), max_tokens, "prompt")
    return Request(
        prompt,
        body.params(temperature=TEMPERATURE, max_tokens=max_tokens, room=room, logprobs=body.logprobs),
        n=body.n or 1,
        tenant=caller.key.id,
        grammar=grammar,
        prompt_logprobs=body.logprobs if body.echo else None,
        name=caller.record.request_id,
    )


def _echo(served: Served, text: str | list[int]) -> str:
    """The prompt as text; of ids what they stand for, a blank at the beginning included."""
    return text if isinstance(text, str) else served.tokenizer.decode(text, strip_leading_space=False)
