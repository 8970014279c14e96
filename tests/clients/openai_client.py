"""`openai`, the newest: chat, its streaming helpers, completions, embeddings, tools, `parse`, and the error classes."""

import asyncio
import json
import math
import os
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
MODEL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
HELLO = [{"role": "user", "content": "Hello"}]
STORY = [{"role": "user", "content": "Tell me a story about a dog."}]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily
HELLO_IDS = [1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793]  # what HELLO is to the model


class GetWeather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Lyon"]


class Animal(BaseModel):
    """What answers are held to."""

    kind: Literal["cat", "dog"]
    legs: Literal[3, 4]


TOOLS = [openai.pydantic_function_tool(GetWeather, name="get_weather")]

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


def test_models() -> None:
    assert {"open-mixtral-8x7b", "mistral-embed"} <= {card.id for card in client.models.list()}
    card = client.models.retrieve(MODEL)
    assert (card.id, card.object) == (MODEL, "model")
    assert card.created > 0
    assert card.owned_by


def test_chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(HELLO_IDS)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_a_request_id_is_given_back() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=1, extra_headers={"x-request-id": "my-request-7"}
    )
    assert answer._request_id == "my-request-7"


def test_fields_of_other_servers_are_ignored() -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be kind."}, *HELLO],
        temperature=0,
        max_completion_tokens=4,
        user="me",
        store=False,
        metadata={"who": "tests"},
        service_tier="auto",
        parallel_tool_calls=True,
        reasoning_effort="low",
        prompt_cache_key="tests",
        safety_identifier="me",
        extra_body={"an_unknown_field": 1},
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_a_repeated_prompt_is_cached() -> None:
    story = [{"role": "user", "content": "Once upon a time there was a little dog. " * 30}]
    first, second = (
        client.chat.completions.create(model=MODEL, messages=story, temperature=0, max_tokens=8) for _ in range(2)
    )
    assert second.choices[0].message.content == first.choices[0].message.content
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens is not None
    assert second.usage.prompt_tokens_details.cached_tokens > second.usage.prompt_tokens // 2


def test_seed_and_choices() -> None:
    first, second = (
        client.chat.completions.create(model=MODEL, messages=STORY, temperature=1, seed=5, n=3, max_tokens=20)
        for _ in range(2)
    )
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    alone = client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=1)
    assert first.usage is not None
    assert alone.usage is not None
    assert first.usage.prompt_tokens == alone.usage.prompt_tokens


def test_stop() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stop=" you")
    assert answer.choices[0].message.content == "Hi! How are"
    assert answer.choices[0].finish_reason == "stop"


def test_logit_bias() -> None:
    banned = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=3, logit_bias={"15359": -100}
    )
    assert not (banned.choices[0].message.content or "").startswith("Hi")


def test_logprobs() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, logprobs=True, top_logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    for token in logprobs.content:
        assert token.bytes is not None
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].token == token.token
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob)


def test_stream() -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stream_with_usage() -> None:
    *chunks, last = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens == len(HELLO_IDS)


def test_stream_of_several_choices() -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(
        model=MODEL, messages=STORY, temperature=1, seed=5, n=2, max_tokens=20, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = client.chat.completions.create(model=MODEL, messages=STORY, temperature=1, seed=5, n=2, max_tokens=20)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}


def test_stream_helper() -> None:
    with client.chat.completions.stream(model=MODEL, messages=HELLO, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert "".join(event.delta for event in events if event.type == "content.delta") == ANSWER
    assert [event.content for event in events if event.type == "content.done"] == [ANSWER]
    assert final.choices[0].message.content == ANSWER
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == "stop"


def test_stream_left_early() -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=1, stream=True, extra_body={"min_tokens": 500}
    )
    assert next(iter(stream)).choices
    stream.close()
    assert client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1).choices


def test_parse() -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Animal)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Animal)


def test_parse_streamed() -> None:
    with client.chat.completions.stream(model=MODEL, messages=HELLO, response_format=Animal) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Animal)


def test_json_object() -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Name a colour as JSON."}],
        temperature=1,
        n=10,
        max_tokens=50,
        seed=1,
        response_format={"type": "json_object"},
    )
    assert all((choice.message.content or "").startswith("{") for choice in answer.choices)
    ended = [choice.message.content or "" for choice in answer.choices if choice.finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(text), dict) for text in ended)


def test_tools() -> None:
    messages = [{"role": "user", "content": "How is the weather in Paris?"}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    message = answer.choices[0].message
    [call] = message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")
    messages.append(message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"sky": "blue"}'})
    told = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, tool_choice="none", temperature=0
    )
    assert told.choices[0].message.content
    assert not told.choices[0].message.tool_calls


def test_one_named_tool() -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=HELLO,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_tools_streamed() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [event.name for event in done] == ["get_weather"]
    assert isinstance(done[0].parsed_arguments, GetWeather)
    [call] = final.choices[0].message.tool_calls or []
    assert call.id
    assert call.function.name == "get_weather"


def test_completions() -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", temperature=0)
    assert answer.object == "text_completion"
    assert answer.choices[0].text.startswith(" there was")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_completions_of_token_ids() -> None:
    one = client.completions.create(model=MODEL, prompt=HELLO_IDS, temperature=0)
    assert one.choices[0].text == f" {ANSWER}"
    assert one.usage is not None
    assert one.usage.prompt_tokens == len(HELLO_IDS)
    two = client.completions.create(model=MODEL, prompt=[HELLO_IDS, [1, 5713, 3714]], temperature=0, max_tokens=8)
    assert two.choices[0].text == f" {ANSWER}"
    assert [choice.index for choice in two.choices] == [0, 1]


def test_completions_of_several_prompts_and_choices() -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["One day", "Once upon a time"], n=2, temperature=1, seed=3, max_tokens=8
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(model=MODEL, prompt="One day", n=2, temperature=1, seed=3, max_tokens=8)
    assert [choice.text for choice in alone.choices] == [choice.text for choice in answer.choices[:2]]


def test_completions_streamed() -> None:
    chunks = list(client.completions.create(model=MODEL, prompt="Once upon a time", temperature=0, stream=True))
    whole = client.completions.create(model=MODEL, prompt="Once upon a time", temperature=0)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_likelihood_of_a_text() -> None:
    # as evaluation harnesses ask: the prompt's own log-probabilities and no new token
    text = "Once upon a time there was a dog."
    answer = client.completions.create(model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=2)
    assert answer.choices[0].text == text
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    n_tokens = len(logprobs.tokens)
    assert n_tokens == len(logprobs.token_logprobs) == len(logprobs.text_offset) == len(logprobs.top_logprobs)
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_embeddings() -> None:
    inputs = ["a cat", "a small dog", "a cat"]
    answer = client.embeddings.create(model="mistral-embed", input=inputs)  # asks for base64
    assert [row.index for row in answer.data] == [0, 1, 2]
    first, second, third = (row.embedding for row in answer.data)
    assert first == third != second
    assert math.hypot(*first) == pytest.approx(1.0, abs=1e-4)
    plain = client.embeddings.create(model="mistral-embed", input=inputs, encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(first, abs=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_embeddings_of_fewer_dimensions() -> None:
    answer = client.embeddings.create(model="mistral-embed", input="a cat", dimensions=64)
    assert len(answer.data[0].embedding) == 64
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1.0, abs=1e-4)


def test_not_found() -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model") as raised:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert raised.value.code == "model_not_found"
    assert raised.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    with pytest.raises(openai.NotFoundError):
        client.files.list()  # a path that Octuor has not


def test_authentication() -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        OpenAI(base_url=f"{URL}/v1", api_key="wrong").models.list()
    assert raised.value.code == "invalid_api_key"
    assert raised.value.status_code == 401


def test_bad_request() -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens") as raised:
        client.chat.completions.create(model=MODEL, messages=long)
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=long, stream=True)


def test_unprocessable() -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
    assert raised.value.param == "temperature"
    assert "temperature" in raised.value.message
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.chat.completions.create(model=MODEL, messages=[])
    assert raised.value.param == "messages"


def test_an_unknown_tool() -> None:
    choice = {"type": "function", "function": {"name": "no_such_tool"}}
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError), match="no_such_tool"):
        client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS, tool_choice=choice)


def test_too_many_requests() -> None:
    limited = OpenAI(base_url=f"{URL}/v1", api_key=ONE_A_MINUTE, max_retries=0)
    limited.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as raised:
        limited.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert int(raised.value.response.headers["retry-after"]) > 0
    assert raised.value.code


def test_async() -> None:
    async def program() -> None:
        async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as several:
            answers = await asyncio.gather(
                *(several.chat.completions.create(model=MODEL, messages=HELLO, temperature=0) for _ in range(8))
            )
            assert {answer.choices[0].message.content for answer in answers} == {ANSWER}
            stream = await several.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER
            async with several.chat.completions.stream(model=MODEL, messages=HELLO, temperature=0) as helper:
                assert (await helper.get_final_completion()).choices[0].message.content == ANSWER
            assert (await several.embeddings.create(model="mistral-embed", input="a cat")).data

    asyncio.run(program())
