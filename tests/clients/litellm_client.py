"""`litellm` by each of its roads to a server: mistral, openai, hosted_vllm, text-completion-openai, huggingface."""

import asyncio
import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its table of prices; else importing it reads one from the network

import litellm
import pytest

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lyon"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}]
ANIMAL = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["cat", "dog"]}},
    "required": ["kind"],
    "additionalProperties": False,
}
ROADS = {
    "mistral/open-mixtral-8x7b": f"{URL}/v1",
    "openai/mistralai/Mixtral-8x7B-Instruct-v0.1": f"{URL}/v1",
    "hosted_vllm/mistralai/Mixtral-8x7B-Instruct-v0.1": f"{URL}/v1",
    "huggingface/mistralai/Mixtral-8x7B-Instruct-v0.1": URL,
}
every_road = pytest.mark.parametrize("model", ROADS)
v1_road = pytest.mark.parametrize("model", [model for model in ROADS if not model.startswith("huggingface/")])


def ask(model: str, **more: Any) -> Any:
    return litellm.completion(**{"model": model, "messages": HELLO, "api_base": ROADS[model], "api_key": KEY, **more})


@every_road
def test_completion(model: str) -> None:
    answer = ask(model, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 9


@every_road
def test_stream(model: str) -> None:
    chunks = list(ask(model, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


@every_road
def test_stream_with_usage(model: str) -> None:
    chunks = list(ask(model, temperature=0, stream=True, stream_options={"include_usage": True}))
    [usage] = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert usage.prompt_tokens == 9
    assert litellm.stream_chunk_builder(chunks, messages=HELLO).choices[0].message.content == ANSWER


@every_road
def test_seed(model: str) -> None:
    first, second = (ask(model, temperature=1.0, seed=42, max_tokens=20) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content


@every_road
def test_tools(model: str) -> None:
    answer = ask(model, tools=TOOLS, tool_choice="required")
    assert answer.choices[0].finish_reason == "tool_calls"
    for call in answer.choices[0].message.tool_calls:
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")


@every_road
def test_response_format(model: str) -> None:
    answer = ask(
        model,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "animal", "schema": ANIMAL, "strict": True},
        },
    )
    assert json.loads(answer.choices[0].message.content)["kind"] in ("cat", "dog")


@every_road
def test_wrong_key(model: str) -> None:
    with pytest.raises(litellm.AuthenticationError):
        ask(model, api_key="wrong")


@v1_road
def test_prompt_beyond_the_context(model: str) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        ask(model, messages=[{"role": "user", "content": "word " * 2000}])


def test_unknown_model() -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/no-such-model", messages=HELLO, api_base=f"{URL}/v1", api_key=KEY)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="mistral/no-such-model", messages=HELLO, api_base=f"{URL}/v1", api_key=KEY)


def test_too_many_requests() -> None:
    model = "openai/mistralai/Mixtral-8x7B-Instruct-v0.1"
    ask(model, api_key=ONE_A_MINUTE, max_tokens=1, max_retries=0)
    with pytest.raises(litellm.RateLimitError):
        ask(model, api_key=ONE_A_MINUTE, max_tokens=1, max_retries=0)


def test_text_completion() -> None:
    model = "text-completion-openai/mistralai/Mixtral-8x7B-Instruct-v0.1"
    whole = litellm.text_completion(
        model=model, prompt="Once upon a time", temperature=0, max_tokens=16, api_base=f"{URL}/v1", api_key=KEY
    )
    assert whole.choices[0].text.startswith(" there was")
    chunks = litellm.text_completion(
        model=model,
        prompt="Once upon a time",
        temperature=0,
        max_tokens=16,
        stream=True,
        api_base=f"{URL}/v1",
        api_key=KEY,
    )
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == whole.choices[0].text


@pytest.mark.parametrize("model", ["mistral/mistral-embed", "openai/mistral-embed", "hosted_vllm/mistral-embed"])
def test_embedding(model: str) -> None:
    answer = litellm.embedding(model=model, input=["a cat", "a small dog"], api_base=f"{URL}/v1", api_key=KEY)
    assert [row["index"] for row in answer.data] == [0, 1]
    assert len(answer.data[0]["embedding"]) == len(answer.data[1]["embedding"]) > 1


@every_road
def test_async(model: str) -> None:
    async def program() -> None:
        answer = await litellm.acompletion(
            model=model, messages=HELLO, temperature=0, api_base=ROADS[model], api_key=KEY
        )
        assert answer.choices[0].message.content == ANSWER
        stream = await litellm.acompletion(
            model=model, messages=HELLO, temperature=0, stream=True, api_base=ROADS[model], api_key=KEY
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER

    asyncio.run(program())
