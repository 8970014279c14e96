"""`mistralai` 0.4.2, the client of Mixtral's first months: MistralClient and MistralAsyncClient."""

import asyncio
import json
import os

import pytest
from mistralai.async_client import MistralAsyncClient
from mistralai.client import MistralClient
from mistralai.exceptions import MistralAPIException, MistralAPIStatusException
from mistralai.models.chat_completion import (
    ChatCompletionStreamResponse,
    ChatMessage,
    FinishReason,
    Function,
    ResponseFormat,
    ResponseFormats,
    ToolChoice,
)

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
HELLO = [ChatMessage(role="user", content="Hello")]
STORY = [ChatMessage(role="user", content="Tell me a story about a dog.")]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily
WEATHER = {
    "type": "function",
    "function": Function(
        name="get_weather",
        description="The weather in a city.",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Lyon"]}},
            "required": ["city"],
        },
    ),
}

client = MistralClient(api_key=KEY, endpoint=URL)


def text_of(chunks: list[ChatCompletionStreamResponse]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_list_models() -> None:
    models = client.list_models()
    assert models.object == "list"
    cards = {card.id: card for card in models.data}
    assert {"mistral-tiny", "mistral-small", "open-mixtral-8x7b", "mistral-embed"} <= cards.keys()
    card = cards["open-mixtral-8x7b"]
    assert card.object == "model"
    assert card.created > 0
    assert card.permission[0].object == "model_permission"


def test_chat() -> None:
    answer = client.chat(model="open-mixtral-8x7b", messages=HELLO, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == "open-mixtral-8x7b"
    assert len(answer.choices) == 1
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == FinishReason.stop
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.completion_tokens is not None
    assert answer.usage.total_tokens == 9 + answer.usage.completion_tokens


def test_chat_with_every_parameter() -> None:
    answer = client.chat(
        model="mistral-tiny",
        messages=HELLO,
        temperature=0.7,
        top_p=1.0,
        max_tokens=3,
        random_seed=1,
        safe_mode=False,
        safe_prompt=False,
    )
    assert answer.choices[0].finish_reason == FinishReason.length
    assert answer.usage.completion_tokens == 3


def test_safe_prompt_is_written_before_the_first_message() -> None:
    assert client.chat(model="mistral-small", messages=HELLO, max_tokens=1, safe_prompt=True).usage.prompt_tokens == 55
    assert client.chat(model="mistral-small", messages=HELLO, max_tokens=1, safe_mode=True).usage.prompt_tokens == 55


def test_a_seed_gives_the_same_text() -> None:
    first, second, other = (
        client.chat(model="mistral-tiny", messages=STORY, temperature=1.0, max_tokens=40, random_seed=seed)
        for seed in (42, 42, 43)
    )
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content


def test_chat_stream() -> None:
    chunks = list(client.chat_stream(model="open-mixtral-8x7b", messages=HELLO, temperature=0))
    assert text_of(chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [FinishReason.stop]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(usages) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 9


def test_stream_of_line_separators() -> None:
    # the client cuts lines with str.splitlines(), which knows more ends of line than the event stream does
    odd = "one\u2028two\u2029three\u0085four"
    chunks = list(
        client.chat_stream(
            model="mistral-tiny",
            messages=HELLO,
            temperature=0,
            response_format={"type": "regex", "value": odd},
        )
    )
    assert text_of(chunks) == odd


def test_json_mode() -> None:
    answers = [
        client.chat(
            model="open-mixtral-8x7b",
            messages=[ChatMessage(role="user", content="Name a colour as JSON.")],
            temperature=1,
            max_tokens=50,
            random_seed=seed,
            response_format=ResponseFormat(type=ResponseFormats.json_object),
        ).choices[0]
        for seed in range(10)
    ]
    assert all(answer.message.content.startswith("{") for answer in answers)
    ended = [answer.message.content for answer in answers if answer.finish_reason == FinishReason.stop]
    assert ended
    assert all(isinstance(json.loads(text), dict) for text in ended)


def test_tools() -> None:
    messages = [ChatMessage(role="user", content="What is the weather in Paris?")]
    asked = client.chat(model="open-mixtral-8x7b", messages=messages, tools=[WEATHER], tool_choice=ToolChoice.any)
    choice = asked.choices[0]
    assert choice.finish_reason == FinishReason.tool_calls
    assert choice.message.content == ""
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert len(call.id) == 9
    assert call.id.isalnum()
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")

    messages.append(ChatMessage(role="assistant", content="", tool_calls=[call]))
    messages.append(ChatMessage(role="tool", name="get_weather", content='{"sky": "blue"}', tool_call_id=call.id))
    told = client.chat(
        model="open-mixtral-8x7b", messages=messages, tools=[WEATHER], tool_choice=ToolChoice.none, temperature=0
    )
    assert told.choices[0].message.tool_calls is None
    assert told.choices[0].message.content


def test_tools_streamed() -> None:
    chunks = list(
        client.chat_stream(model="open-mixtral-8x7b", messages=HELLO, tools=[WEATHER], tool_choice=ToolChoice.any)
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls
    for call in calls:
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")
    assert chunks[-1].choices[0].finish_reason == FinishReason.tool_calls


def test_embeddings() -> None:
    answer = client.embeddings(model="mistral-embed", input=["a cat", "a small dog", "a cat"])
    assert [row.index for row in answer.data] == [0, 1, 2]
    first, second, third = (row.embedding for row in answer.data)
    assert first == third != second
    assert sum(x * x for x in first) == pytest.approx(1.0, abs=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    assert answer.usage.completion_tokens == 0
    assert client.embeddings(model="mistral-embed", input="a cat").data[0].embedding == pytest.approx(first, abs=1e-5)


def test_fill_in_the_middle_is_refused() -> None:
    with pytest.raises(MistralAPIException) as raised:
        client.completion(model="open-mixtral-8x7b", prompt="def add(", suffix="return a + b")
    assert 400 <= raised.value.http_status < 500


def test_unknown_model() -> None:
    with pytest.raises(MistralAPIException, match="no-such-model") as raised:
        client.chat(model="no-such-model", messages=HELLO)
    assert raised.value.http_status == 404
    with pytest.raises(MistralAPIException, match="no-such-model"):
        list(client.chat_stream(model="no-such-model", messages=HELLO))


def test_wrong_key() -> None:
    with pytest.raises(MistralAPIException) as raised:
        MistralClient(api_key="wrong", endpoint=URL).list_models()
    assert raised.value.http_status == 401


def test_bad_value() -> None:
    with pytest.raises(MistralAPIException, match="temperature") as raised:
        client.chat(model="mistral-tiny", messages=HELLO, temperature=-1)
    assert raised.value.http_status == 422


def test_prompt_beyond_the_context() -> None:
    with pytest.raises(MistralAPIException, match="maximum context length is 1024 tokens") as raised:
        client.chat(model="mistral-tiny", messages=[ChatMessage(role="user", content="word " * 2000)])
    assert raised.value.http_status == 400


def test_too_many_requests() -> None:
    limited = MistralClient(api_key=ONE_A_MINUTE, endpoint=URL, max_retries=1)
    limited.chat(model="mistral-tiny", messages=HELLO, max_tokens=1)
    with pytest.raises(MistralAPIStatusException) as raised:
        limited.chat(model="mistral-tiny", messages=HELLO, max_tokens=1)
    assert raised.value.http_status == 429
    assert int(raised.value.headers["retry-after"]) > 0


def test_async() -> None:
    async def program() -> None:
        several = MistralAsyncClient(api_key=KEY, endpoint=URL)
        models = await several.list_models()
        assert "mistral-tiny" in {card.id for card in models.data}
        answer = await several.chat(model="mistral-tiny", messages=HELLO, temperature=0)
        assert answer.choices[0].message.content == ANSWER
        chunks = [chunk async for chunk in several.chat_stream(model="mistral-tiny", messages=HELLO, temperature=0)]
        assert text_of(chunks) == ANSWER
        vectors = await several.embeddings(model="mistral-embed", input=["a cat", "a small dog"])
        assert len(vectors.data) == 2
        with pytest.raises(MistralAPIException, match="no-such-model"):
            await several.chat(model="no-such-model", messages=HELLO)
        await several.close()

    asyncio.run(program())


def test_async_answers_are_the_same_side_by_side() -> None:
    questions = ["Hello", "Tell me a story about a dog.", "What is 2+2?", "Say red."] * 4

    async def program() -> list[str]:
        several = MistralAsyncClient(api_key=KEY, endpoint=URL)
        answers = await asyncio.gather(
            *(
                several.chat(
                    model="mistral-tiny",
                    messages=[ChatMessage(role="user", content=question)],
                    temperature=0,
                    max_tokens=60,
                )
                for question in questions
            )
        )
        await several.close()
        return [answer.choices[0].message.content for answer in answers]

    together = asyncio.run(program())
    alone = [
        client.chat(
            model="mistral-tiny",
            messages=[ChatMessage(role="user", content=question)],
            temperature=0,
            max_tokens=60,
        )
        .choices[0]
        .message.content
        for question in questions[:4]
    ]
    assert together == alone * 4
