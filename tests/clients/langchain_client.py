"""`langchain-mistralai`: ChatMistralAI (invoke, stream, tools, structured output) and MistralAIEmbeddings."""

import asyncio
import math
import os
from typing import Literal

os.environ["HF_HUB_OFFLINE"] = "1"  # the embeddings count tokens by a tokenizer from the Hub, or by letters without it

import httpx
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from pydantic import BaseModel

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily

chat = ChatMistralAI(base_url=f"{URL}/v1", api_key=KEY, model="open-mixtral-8x7b", temperature=0)


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog"]
    legs: Literal[3, 4]


@tool
def weather(city: Literal["Paris", "Lyon"]) -> str:
    """The weather in a city."""
    return f"The sky over {city} is blue."


def test_invoke() -> None:
    answer = chat.invoke("Hello")
    assert answer.content == ANSWER
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == 9
    assert answer.response_metadata["finish_reason"] == "stop"


def test_conversation() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "You are {mood}."), ("human", "{text}")])
    answer = (prompt | chat).invoke({"mood": "kind", "text": "Hello"})
    assert answer.content
    more = chat.invoke([SystemMessage("Be kind."), HumanMessage("Hello"), answer, HumanMessage("How are you?")])
    assert more.content


def test_stop_and_seed() -> None:
    assert chat.invoke("Hello", stop=[" you"]).content == "Hi! How are"
    wild = ChatMistralAI(
        base_url=f"{URL}/v1",
        api_key=KEY,
        model="open-mixtral-8x7b",
        temperature=1,
        top_p=0.95,
        random_seed=42,
        max_tokens=20,
        safe_mode=True,
    )
    assert wild.invoke("Hello").content == wild.invoke("Hello").content


def test_stream() -> None:
    chunks = list(chat.stream("Hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert whole.content == ANSWER
    assert len(chunks) > 3
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] == 9
    assert whole.response_metadata["finish_reason"] == "stop"


def test_batch() -> None:
    assert [answer.content for answer in chat.batch(["Hello"] * 5)] == [ANSWER] * 5


def test_tools() -> None:
    able = chat.bind_tools([weather], tool_choice="any", parallel_tool_calls=False)
    asked = able.invoke("How is the weather in Paris?")
    [call] = asked.tool_calls
    told = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = chat.invoke([HumanMessage("How is the weather in Paris?"), asked, told])
    assert answer.content


def test_tools_streamed() -> None:
    chunks = list(chat.bind_tools([weather], tool_choice="weather").stream("How is the weather in Paris?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert whole.tool_calls
    assert {call["name"] for call in whole.tool_calls} == {"weather"}


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output(method: Literal["function_calling", "json_schema"]) -> None:
    animal = chat.with_structured_output(Animal, method=method).invoke("Hello")
    assert isinstance(animal, Animal)


def test_json_mode() -> None:
    answer = chat.with_structured_output(None, method="json_mode").invoke("Hello")
    assert isinstance(answer, dict)


def test_embeddings() -> None:
    with pytest.warns(UserWarning, match="tokenizer"):
        model = MistralAIEmbeddings(endpoint=f"{URL}/v1/", api_key=KEY, model="mistral-embed")
    one, two = model.embed_documents(["a cat", "a small dog"])
    assert math.hypot(*one) == pytest.approx(1.0, abs=1e-4)
    assert model.embed_query("a small dog") == pytest.approx(two, abs=1e-5)


def test_async() -> None:
    async def program() -> None:
        assert (await chat.ainvoke("Hello")).content == ANSWER
        assert "".join([str(chunk.content) async for chunk in chat.astream("Hello")]) == ANSWER
        answers = await chat.abatch(["Hello"] * 5)
        assert [answer.content for answer in answers] == [ANSWER] * 5

    asyncio.run(program())


def test_errors() -> None:
    for model, key, status in (("no-such-model", KEY, 404), ("mistral-small", "wrong", 401)):
        stranger = ChatMistralAI(base_url=f"{URL}/v1", api_key=key, model=model)
        with pytest.raises(httpx.HTTPStatusError) as raised:
            stranger.invoke("Hello")
        assert raised.value.response.status_code == status
        with pytest.raises(httpx.HTTPStatusError):
            list(stranger.stream("Hello"))
    with pytest.raises(httpx.HTTPStatusError, match="maximum context length is 1024 tokens"):
        chat.invoke("word " * 2000)


def test_too_many_requests() -> None:
    limited = ChatMistralAI(base_url=f"{URL}/v1", api_key=ONE_A_MINUTE, model="mistral-small", max_tokens=1)
    limited.invoke("Hello")
    with pytest.raises(httpx.HTTPStatusError) as raised:
        limited.invoke("Hello")
    assert raised.value.response.status_code == 429
