"""Text to token ids and back: POST /tokenize, /chat_tokenize, /detokenize, in the words of three servers.

The field that holds the text tells whose client asks. TGI's `inputs` and llama-server's `content` are raw prompts, in
which "<s>" and "</s>" are control tokens (tokenizer/raw.py); vLLM's `prompt` is what /v1/completions reads, where
control text is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import Depends
from starlette.responses import Response

from octuor.errors import RequestError
from octuor.grammar import read_tools, with_tools
from octuor.server.answering import Caller, caller_of
from octuor.server.errors import invalid
from octuor.server.json_text import dumps
from octuor.server.prompts import encode_messages, encoded
from octuor.server.registry import Served
from octuor.server.route import keyed_router
from octuor.server.schemas.tokenize import (
    MAX_BYTES,
    ChatTokenizeRequest,
    ChatTokenizeResponse,
    Conversation,
    DetokenizeRequest,
    DetokenizeResponse,
    Piece,
    SimpleToken,
    TokenizeCount,
    TokenizePieces,
    TokenizeRequest,
    TokenizeResponse,
    utf8_length,
)
from octuor.tokenizer import Tokenizer
from octuor.tokenizer.raw import RawDetokenizer, control_names, decode_raw, encode_raw, locate_raw

router = keyed_router("tokenize")

CallerDependency = Annotated[Caller, Depends(caller_of)]


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: TokenizeRequest, caller: CallerDependency) -> Response:
    """The ids of a text or a conversation."""
    served = caller.find(body.model)
    given = [name for name in ("inputs", "prompt", "messages", "content") if getattr(body, name) is not None]
    if len(given) != 1:
        raise invalid(
            "inputs: expected one of inputs, prompt, messages and content, "
            f"found {' and '.join(given) if given else 'none of them'}",
            "inputs",
        )
    if body.inputs is not None:
        return _json(await _as_tgi(served, body.inputs, add_bos=body.add_special_tokens is not False))
    if body.content is not None:
        return _json(await _as_llama_server(served.tokenizer, body.content, body))
    return _json(await _as_vllm(served, body))


@router.post("/chat_tokenize", response_model=ChatTokenizeResponse)
async def chat_tokenize(body: ChatTokenizeRequest, caller: CallerDependency) -> Response:
    """The ids of a conversation, and the text that they are."""
    served = caller.find(body.model)
    ids = await _chat_ids(served, body)
    return _json(await encoded(len(ids), lambda: _written_out(served.tokenizer, ids)))


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(body: DetokenizeRequest, caller: CallerDependency) -> Response:
    """The text of ids, control tokens by their names. What /tokenize made of a text gives the text."""
    tokenizer = caller.find(body.model).tokenizer
    try:
        text = await encoded(len(body.tokens), lambda: decode_raw(tokenizer, body.tokens))
    except RequestError as error:
        raise invalid(f"tokens: {error}", "tokens") from error
    return _json(DetokenizeResponse(prompt=text, content=text))


async def _as_tgi(served: Served, text: str, *, add_bos: bool) -> list[SimpleToken]:
    spans = await encoded(len(text), lambda: locate_raw(served.tokenizer, text, add_bos=add_bos))
    return [
        {"id": span.id, "text": text[span.start : span.stop], "start": span.start, "stop": span.stop} for span in spans
    ]


async def _as_vllm(served: Served, body: TokenizeRequest) -> TokenizeCount:
    tokenizer = served.tokenizer
    if body.messages is not None:
        ids = await _chat_ids(served, body, may_end=body.add_generation_prompt is False)
    else:
        text = body.prompt or ""
        ids = await encoded(len(text), lambda: tokenizer.encode(text))
        if body.add_special_tokens is not False:
            ids = [tokenizer.bos_id, *ids]
    strings = None
    if body.return_token_strs:
        pieces = await encoded(len(ids), lambda: _pieces(tokenizer, ids))
        strings = [piece.decode("utf-8", "replace") for piece in pieces]
    return {"tokens": ids, "count": len(ids), "max_model_len": served.n_context, "token_strs": strings}


async def _as_llama_server(tokenizer: Tokenizer, text: str, body: TokenizeRequest) -> TokenizePieces:
    add_bos = body.add_special is True

    def encode() -> TokenizePieces:
        if body.parse_special is False:
            ids = [*([tokenizer.bos_id] if add_bos else []), *tokenizer.encode(text)]
        else:
            ids = encode_raw(tokenizer, text, add_bos=add_bos).ids
        if not body.with_pieces:
            return {"tokens": ids}
        pieces = map(_text_or_bytes, _pieces(tokenizer, ids))
        return {"tokens": [Piece(id=token_id, piece=piece) for token_id, piece in zip(ids, pieces, strict=True)]}

    return await encoded(len(text), encode)


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bytes]:
    """What each id alone stands for, control tokens by their names."""
    names = control_names(tokenizer)
    return [names[token_id].encode() if token_id in names else tokenizer.piece_bytes(token_id) for token_id in ids]


def _text_or_bytes(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


def _written_out(tokenizer: Tokenizer, ids: Sequence[int]) -> ChatTokenizeResponse:
    """Ids as a text with their places in it; a character of several ids belongs to its last."""
    texts = RawDetokenizer(tokenizer)
    tokens: list[SimpleToken] = []
    start = 0
    for token_id in ids:
        text = texts.push(token_id)
        tokens.append({"id": token_id, "text": text, "start": start, "stop": start + len(text)})
        start += len(text)
    return {"tokenize_response": tokens, "templated_text": "".join(token["text"] for token in tokens)}


async def _chat_ids(served: Served, body: Conversation, *, may_end: bool = False) -> list[int]:
    """The ids of a conversation. may_end: it may end with the assistant's whole message."""
    tokenizer = served.tokenizer
    messages = with_tools([message.as_dict() for message in body.messages or ()], read_tools(body.tools, None, None))
    ends = may_end and messages[-1].role == "assistant" and not messages[-1].prefix
    if ends:
        messages[-1] = replace(messages[-1], prefix=True)  # the format's only word for "no user message after it"
    n_bytes = sum(utf8_length(message.content) for message in messages)
    if n_bytes > MAX_BYTES:
        raise invalid(f"messages: expected at most {MAX_BYTES} bytes of content, found {n_bytes}", "messages")
    chat = await encoded(n_bytes, lambda: encode_messages(tokenizer, messages))
    return [*chat.prompt.ids, *([tokenizer.eos_id] if ends else [])]


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json")
