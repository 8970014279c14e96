"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from octuor.engine.request import Prefilled, Request, Step
from octuor.grammar import AnswerFormat, ToolParser, ToolUse, format_text, read_response_format, read_tools, with_tools
from octuor.server.answering import Caller, answering, caller_of
from octuor.server.chat_shape import ChatShape, Head, usage_of
from octuor.server.connection import while_connected
from octuor.server.constraints import constraint
from octuor.server.json_text import dumps
from octuor.server.prompts import (
    ITEM,
    SAFE_PROMPT,
    ChatPrompt,
    check_chars,
    check_room,
    encode_messages,
    encoded,
    with_system,
)
from octuor.server.registry import Served
from octuor.server.route import keyed_router, streams
from octuor.server.schemas.chat import ChatRequest
from octuor.server.schemas.chat_answers import ChatChunk, ChatCompletion
from octuor.server.sse import DONE, EventStream, frame
from octuor.tokenizer import Message

router = keyed_router("chat")


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=streams(ChatChunk))
async def chat_completions(
    body: ChatRequest, http: HttpRequest, caller: Annotated[Caller, Depends(caller_of)]
) -> Response:
    """Answer a conversation, whole or as a stream of events."""
    served = caller.find(body.model)
    use = read_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    answer_format = read_response_format(body.response_format)
    prompt = await _prompt(served, body, use, answer_format)
    room = check_room(served, len(prompt.prompt.ids), body.limit, "messages")
    params = body.params(temperature=served.temperature, max_tokens=body.limit, room=room, logprobs=body.n_top)
    request = Request(
        prompt.prompt,
        params,
        n=body.n or 1,
        tenant=caller.key.id,
        grammar=await constraint(served, answer_format, use, prefix_ids=prompt.prefix_ids),
        prompt_logprobs=body.prompt_logprobs,
        is_chat=not prompt.prefix,  # after a prefix the first piece's blank belongs to the text
        name=caller.record.request_id,
    )
    shape = ChatShape(
        Head(body.model),
        served.tokenizer,
        [ToolParser(use, seed=params.seed, choice=choice, turn=len(body.messages)) for choice in range(request.n)],
        prefix=prompt.prefix,
        logprobs=body.n_top is not None,
        include_usage=body.include_usage,
    )
    if body.stream:
        return EventStream(_frames(caller, served, request, shape), ping_s=caller.serving.settings.ping_s)
    answer = await while_connected(http.receive, _whole(caller, served, request, shape))
    return Response(answer, media_type="application/json")


async def _frames(caller: Caller, served: Served, request: Request, shape: ChatShape) -> AsyncGenerator[bytes, None]:
    async with answering(caller, served, [request]) as listening:
        async for _, event in listening:
            if isinstance(event, Step):
                for chunk in shape.chunks(event):
                    yield frame(chunk)
    for chunk in shape.end(usage_of(listening.jobs)):
        yield frame(chunk)
    yield DONE


async def _whole(caller: Caller, served: Served, request: Request, shape: ChatShape) -> bytes:
    async with answering(caller, served, [request]) as listening:
        async for _, event in listening:
            if isinstance(event, Step):
                shape.add(event)
            elif isinstance(event, Prefilled):
                shape.prompt = event.prompt
    usage = usage_of(listening.jobs)
    n_entries = usage["total_tokens"] if request.params.logprobs or request.prompt_logprobs else 0
    return await encoded(ITEM * n_entries, lambda: dumps(shape.whole(usage)))


async def _prompt(served: Served, body: ChatRequest, use: ToolUse, answer_format: AnswerFormat) -> ChatPrompt:
    tokenizer = served.tokenizer
    n_chars = sum(message.n_chars for message in body.messages)
    check_chars(served, n_chars, "messages")

    def encode() -> ChatPrompt:
        messages = with_tools([message.as_dict() for message in body.messages], use)
        messages = with_system(messages, format_text(answer_format))
        if body.safe_prompt or body.safe_mode:
            messages.insert(0, Message("system", SAFE_PROMPT))
        check_chars(served, sum(len(message.content) for message in messages), "messages")
        return encode_messages(tokenizer, messages)

    return await encoded(n_chars + ITEM * len(body.messages), encode)
