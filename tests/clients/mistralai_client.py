"""`mistralai`, the newest: `client.chat.complete`, `stream`, `parse`, tools, embeddings, and all of them async."""

import asyncio
import json
import math
import os
from typing import Any, Literal

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from pydantic import BaseModel

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
HELLO = [{"role": "user", "content": "Hello"}]
STORY = [{"role": "user", "content": "Tell me a story about a dog."}]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily


class Animal(BaseModel):
    """What answers are held to."""

    kind: Literal["cat", "dog"]
    legs: Literal[3, 4]


def tool(name: str) -> dict[str, Any]:
    city = {"type": "string", "enum": ["Paris", "Lyon"]}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of a city.",
            "parameters": {"type": "object", "properties": {"city": city}, "required": ["city"]},
        },
    }


TOOLS = [tool("weather"), tool("population")]

client = Mistral(api_key=KEY, server_url=URL)


def text_of(events: list[Any]) -> str:
    return "".join(event.data.choices[0].delta.content or "" for event in events)


def test_models() -> None:
    cards = {card.id: card for card in client.models.list().data or []}
    assert {"mistral-small", "open-mixtral-8x7b", "mistral-embed"} <= cards.keys()
    assert cards["open-mixtral-8x7b"].type == "base"
    assert cards["open-mixtral-8x7b"].capabilities.completion_chat
    assert cards["open-mixtral-8x7b"].max_context_length == 1024
    card = client.models.retrieve(model_id="mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert card.id == "mistralai/Mixtral-8x7B-Instruct-v0.1"


def test_complete() -> None:
    answer = client.chat.complete(model="open-mixtral-8x7b", messages=HELLO, temperature=0)
    assert answer.model == "open-mixtral-8x7b"
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.total_tokens == 9 + answer.usage.completion_tokens


def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    answer = client.chat.complete(
        model="open-mixtral-8x7b", messages=[{"role": "user", "content": parts}], temperature=0
    )
    assert answer.choices[0].message.content


def test_sampling_parameters() -> None:
    def ask(seed: int) -> str:
        answer = client.chat.complete(
            model="mistral-small",
            messages=STORY,
            temperature=1.0,
            top_p=0.95,
            top_k=50,
            min_tokens=5,
            max_tokens=30,
            presence_penalty=0.1,
            frequency_penalty=0.1,
            repetition_penalty=1.05,
            random_seed=seed,
            safe_prompt=False,
            metadata={"who": "tests"},
            prompt_cache_key="tests",
        )
        assert answer.usage.completion_tokens >= 5
        return answer.choices[0].message.content

    assert ask(7) == ask(7) != ask(8)


def test_several_choices() -> None:
    answer = client.chat.complete(
        model="mistral-small", messages=STORY, temperature=1.0, n=3, random_seed=1, max_tokens=20
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    alone = client.chat.complete(model="mistral-small", messages=STORY, max_tokens=1)
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens


def test_stop() -> None:
    answer = client.chat.complete(model="mistral-small", messages=HELLO, temperature=0, stop=[" you"])
    assert answer.choices[0].message.content == "Hi! How are"
    assert answer.choices[0].finish_reason == "stop"


def test_prefix() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Hi! How", "prefix": True}]
    answer = client.chat.complete(model="mistral-small", messages=messages, temperature=0)
    assert answer.choices[0].message.content == ANSWER


def test_logprobs() -> None:
    answer = client.chat.complete(model="mistral-small", messages=HELLO, temperature=0, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes_) for token in content).decode().strip() == ANSWER
    for token in content:
        assert token.logprob <= 0.0
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token_id == token.token_id


def test_stream() -> None:
    with client.chat.stream(model="open-mixtral-8x7b", messages=HELLO, temperature=0) as stream:
        events = list(stream)
    assert text_of(events) == ANSWER
    assert events[0].data.choices[0].delta.role == "assistant"
    assert events[-1].data.choices[0].finish_reason == "stop"
    assert [event.data.usage.prompt_tokens for event in events if event.data.usage] == [9]


def test_stream_left_early() -> None:
    with client.chat.stream(model="open-mixtral-8x7b", messages=HELLO, temperature=1.0, min_tokens=500) as stream:
        assert next(stream).data.choices
    assert client.chat.complete(model="open-mixtral-8x7b", messages=HELLO, temperature=0).choices[0].message.content


def test_parse() -> None:
    answer = client.chat.parse(Animal, model="open-mixtral-8x7b", messages=HELLO, temperature=1.0, random_seed=1)
    assert answer.choices[0].message.parsed.kind in ("cat", "dog")
    events = list(client.chat.parse_stream(Animal, model="open-mixtral-8x7b", messages=HELLO, temperature=0))
    assert Animal.model_validate_json(text_of(events))


def test_response_format() -> None:
    schema = {
        "type": "object",
        "properties": {"legs": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["legs"],
        "additionalProperties": False,
    }
    answer = client.chat.complete(
        model="open-mixtral-8x7b",
        messages=HELLO,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "animal", "schema": schema, "strict": True},
        },
    )
    assert 0 <= json.loads(answer.choices[0].message.content)["legs"] <= 9


def test_json_mode() -> None:
    answer = client.chat.complete(
        model="open-mixtral-8x7b",
        messages=[{"role": "user", "content": "Name a colour as JSON."}],
        temperature=1,
        n=10,
        max_tokens=50,
        random_seed=1,
        response_format={"type": "json_object"},
    )
    assert all(choice.message.content.startswith("{") for choice in answer.choices)
    ended = [choice.message.content for choice in answer.choices if choice.finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(text), dict) for text in ended)


def test_tools() -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    asked = client.chat.complete(
        model="open-mixtral-8x7b", messages=messages, tools=TOOLS, tool_choice="any", parallel_tool_calls=False
    )
    assert asked.choices[0].finish_reason == "tool_calls"
    message = asked.choices[0].message
    assert message.content == ""
    [call] = message.tool_calls
    assert len(call.id) == 9
    assert call.id.isalnum()
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")

    messages.append(message)
    messages.append({"role": "tool", "name": call.function.name, "content": '{"sky": "blue"}', "tool_call_id": call.id})
    told = client.chat.complete(
        model="open-mixtral-8x7b", messages=messages, tools=TOOLS, tool_choice="none", temperature=0
    )
    assert told.choices[0].message.content
    assert not told.choices[0].message.tool_calls


def test_a_named_tool() -> None:
    choice = {"type": "function", "function": {"name": "population"}}
    answer = client.chat.complete(model="open-mixtral-8x7b", messages=HELLO, tools=TOOLS, tool_choice=choice)
    assert {call.function.name for call in answer.choices[0].message.tool_calls} == {"population"}


def test_tools_the_model_may_use() -> None:
    answer = client.chat.complete(model="open-mixtral-8x7b", messages=HELLO, tools=TOOLS, max_tokens=50, temperature=0)
    choice = answer.choices[0]
    assert bool(choice.message.tool_calls) == (choice.finish_reason == "tool_calls")
    assert choice.message.tool_calls or choice.message.content


def test_tools_streamed() -> None:
    with client.chat.stream(model="open-mixtral-8x7b", messages=HELLO, tools=TOOLS, tool_choice="any") as stream:
        events = list(stream)
    calls = [call for event in events for call in event.data.choices[0].delta.tool_calls or []]
    assert [call.index for call in calls] == list(range(len(calls)))
    for call in calls:
        assert call.function.name in ("weather", "population")
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")
    assert events[-1].data.choices[0].finish_reason == "tool_calls"


def test_embeddings() -> None:
    answer = client.embeddings.create(model="mistral-embed", inputs=["a cat", "a small dog"])
    assert [row.index for row in answer.data] == [0, 1]
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1.0, abs=1e-4)
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens == 0


def test_fill_in_the_middle_is_refused() -> None:
    with pytest.raises(SDKError) as raised:
        client.fim.complete(model="open-mixtral-8x7b", prompt="def add(", suffix="return a + b")
    assert 400 <= raised.value.status_code < 500


def test_unknown_model() -> None:
    with pytest.raises(SDKError, match="no-such-model") as raised:
        client.chat.complete(model="no-such-model", messages=HELLO)
    assert raised.value.status_code == 404
    with pytest.raises(SDKError, match="no-such-model"):
        client.chat.stream(model="no-such-model", messages=HELLO)


def test_wrong_key() -> None:
    with pytest.raises(SDKError) as raised:
        Mistral(api_key="wrong", server_url=URL).chat.complete(model="mistral-small", messages=HELLO)
    assert raised.value.status_code == 401
    assert json.loads(raised.value.body)["code"] == "invalid_api_key"


def test_bad_value() -> None:
    with pytest.raises(HTTPValidationError) as raised:
        client.chat.complete(model="mistral-small", messages=HELLO, temperature=-1)
    assert raised.value.status_code == 422
    assert raised.value.data.detail[0].loc == ["body", "temperature"]


def test_prompt_beyond_the_context() -> None:
    with pytest.raises(SDKError, match="maximum context length is 1024 tokens") as raised:
        client.chat.complete(model="mistral-small", messages=[{"role": "user", "content": "word " * 2000}])
    assert raised.value.status_code == 400


def test_too_many_requests() -> None:
    limited = Mistral(api_key=ONE_A_MINUTE, server_url=URL)
    limited.chat.complete(model="mistral-small", messages=HELLO, max_tokens=1)
    with pytest.raises(SDKError) as raised:
        limited.chat.complete(model="mistral-small", messages=HELLO, max_tokens=1)
    assert raised.value.status_code == 429
    assert int(raised.value.headers["retry-after"]) > 0


def test_async() -> None:
    async def program() -> None:
        async with Mistral(api_key=KEY, server_url=URL) as several:
            answer = await several.chat.complete_async(model="mistral-small", messages=HELLO, temperature=0)
            assert answer.choices[0].message.content == ANSWER
            async with await several.chat.stream_async(model="mistral-small", messages=HELLO, temperature=0) as stream:
                assert text_of([event async for event in stream]) == ANSWER
            parsed = await several.chat.parse_async(Animal, model="mistral-small", messages=HELLO)
            assert parsed.choices[0].message.parsed.legs in (3, 4)
            vectors = await several.embeddings.create_async(model="mistral-embed", inputs=["a cat"])
            assert len(vectors.data) == 1
            assert (await several.models.list_async()).data
            with pytest.raises(SDKError, match="no-such-model"):
                await several.chat.complete_async(model="no-such-model", messages=HELLO)

    asyncio.run(program())
