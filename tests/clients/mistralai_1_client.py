"""`mistralai` 1.12.4, the last of the first `Mistral` clients: other imports, answers and errors than the newest."""

import asyncio
import json
import os
from typing import Any, Literal

import pytest
from mistralai import Mistral
from mistralai.models import HTTPValidationError, SDKError
from pydantic import BaseModel

URL, KEY = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"]
HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lyon"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}]


class Animal(BaseModel):
    """What answers are held to."""

    kind: Literal["cat", "dog"]


client = Mistral(api_key=KEY, server_url=URL)


def text_of(events: list[Any]) -> str:
    return "".join(event.data.choices[0].delta.content or "" for event in events)


def test_models() -> None:
    cards = {card.id: card for card in client.models.list().data}
    assert {"mistral-small", "open-mixtral-8x7b", "mistral-embed"} <= cards.keys()
    assert cards["open-mixtral-8x7b"].capabilities.completion_chat
    assert client.models.retrieve(model_id="open-mixtral-8x7b").id == "open-mixtral-8x7b"


def test_complete() -> None:
    answer = client.chat.complete(model="open-mixtral-8x7b", messages=HELLO, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 9


def test_stream() -> None:
    with client.chat.stream(model="open-mixtral-8x7b", messages=HELLO, temperature=0) as stream:
        events = list(stream)
    assert text_of(events) == ANSWER
    assert events[-1].data.choices[0].finish_reason == "stop"
    assert [event.data.usage.prompt_tokens for event in events if event.data.usage] == [9]


def test_parse() -> None:
    answer = client.chat.parse(Animal, model="open-mixtral-8x7b", messages=HELLO)
    assert answer.choices[0].message.parsed.kind in ("cat", "dog")


def test_tools() -> None:
    answer = client.chat.complete(model="open-mixtral-8x7b", messages=HELLO, tools=TOOLS, tool_choice="any")
    assert answer.choices[0].finish_reason == "tool_calls"
    for call in answer.choices[0].message.tool_calls:
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")
    with client.chat.stream(model="open-mixtral-8x7b", messages=HELLO, tools=TOOLS, tool_choice="any") as stream:
        events = list(stream)
    assert [call for event in events for call in event.data.choices[0].delta.tool_calls or []]
    assert events[-1].data.choices[0].finish_reason == "tool_calls"


def test_embeddings() -> None:
    answer = client.embeddings.create(model="mistral-embed", inputs=["a cat", "a small dog"])
    assert [row.index for row in answer.data] == [0, 1]
    assert answer.usage.completion_tokens == 0


def test_errors() -> None:
    with pytest.raises(SDKError, match="no-such-model") as unknown:
        client.chat.complete(model="no-such-model", messages=HELLO)
    assert unknown.value.status_code == 404
    with pytest.raises(SDKError) as wrong:
        Mistral(api_key="wrong", server_url=URL).models.list()
    assert wrong.value.status_code == 401
    with pytest.raises(HTTPValidationError) as bad:
        client.chat.complete(model="mistral-small", messages=HELLO, temperature=-1)
    assert bad.value.data.detail[0].loc == ["body", "temperature"]


def test_async() -> None:
    async def program() -> None:
        async with Mistral(api_key=KEY, server_url=URL) as several:
            answer = await several.chat.complete_async(model="mistral-small", messages=HELLO, temperature=0)
            assert answer.choices[0].message.content == ANSWER
            stream = await several.chat.stream_async(model="mistral-small", messages=HELLO, temperature=0)
            assert text_of([event async for event in stream]) == ANSWER
            vectors = await several.embeddings.create_async(model="mistral-embed", inputs=["a cat"])
            assert len(vectors.data) == 1

    asyncio.run(program())
