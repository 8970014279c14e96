"""`text-generation` 0.7.0, the client of TGI itself: generate, generate_stream, chat, and their async twins.

Its chat is not streamed here: it wants a role in every chunk, where other clients add up what chunks say, and takes the
`[DONE]` that ends every stream of chat completions for JSON.
"""

import asyncio
import json
import os

import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import NotFoundError, OverloadedError, UnknownError, ValidationError
from text_generation.types import FinishReason, Grammar, GrammarType, Message, Tool

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
PROMPT = "<s>[INST] Hello [/INST]"
ANSWER = " Hi! How are you today?"  # of the pocket model, greedily
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lyon"]}}, "required": ["city"]}

client = Client(URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


def test_generate() -> None:
    answer = client.generate(PROMPT, max_new_tokens=50, decoder_input_details=True)
    assert answer.generated_text == ANSWER
    assert answer.details.finish_reason == FinishReason.EndOfSequenceToken
    assert answer.details.generated_tokens == len(answer.details.tokens)
    assert "".join(token.text for token in answer.details.tokens if not token.special) == ANSWER
    assert len(answer.details.prefill) == 9
    assert answer.details.prefill[0].logprob is None


def test_generate_with_every_parameter() -> None:
    answer = client.generate(
        PROMPT,
        do_sample=True,
        max_new_tokens=12,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        return_full_text=True,
        seed=42,
        stop_sequences=["never"],
        temperature=0.9,
        top_k=50,
        top_p=0.95,
        truncate=100,
        typical_p=0.95,
        watermark=False,
        top_n_tokens=3,
    )
    assert answer.generated_text.startswith(PROMPT)
    assert answer.details.seed == 42
    assert answer.details.top_tokens is not None
    assert [len(tops) for tops in answer.details.top_tokens] == [3] * len(answer.details.tokens)


def test_best_of() -> None:
    answer = client.generate(PROMPT, do_sample=True, best_of=3, max_new_tokens=10)
    others = answer.details.best_of_sequences
    assert others is not None
    assert len(others) == 2


def test_grammar() -> None:
    answer = client.generate(PROMPT, max_new_tokens=50, grammar=Grammar(type=GrammarType.Json, value=CITY))
    assert json.loads(answer.generated_text)["city"] in ("Paris", "Lyon")
    answer = client.generate(PROMPT, max_new_tokens=50, grammar=Grammar(type=GrammarType.Regex, value="(ab){3}"))
    assert answer.generated_text == "ababab"


def test_generate_stream() -> None:
    *others, last = client.generate_stream(PROMPT, max_new_tokens=50)
    assert "".join(event.token.text for event in others) == ANSWER
    assert all(event.generated_text is None for event in others)
    assert last.generated_text == ANSWER
    assert last.details is not None
    assert last.details.generated_tokens == len(others) + 1


def test_chat() -> None:
    answer = client.chat([Message(role="user", content="Hello")], temperature=0.01, seed=1)
    assert answer.choices[0].message.content == ANSWER.strip()
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "tgi"
    assert answer.usage["prompt_tokens"] == 9


def test_chat_with_tools() -> None:
    tool = Tool(type="function", function={"name": "weather", "description": "The weather.", "parameters": CITY})
    answer = client.chat([Message(role="user", content="Hello")], tools=[tool], tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Lyon")


def test_errors() -> None:
    with pytest.raises(ValidationError, match="1024"):
        client.generate("word " * 2000)
    with pytest.raises(ValidationError, match="1024"):
        list(client.generate_stream("word " * 2000))
    with pytest.raises(NotFoundError):
        Client(f"{URL}/no/such/path", headers=client.headers).generate(PROMPT)
    with pytest.raises(UnknownError):
        Client(URL, headers={"Authorization": "Bearer wrong"}).generate(PROMPT)


def test_too_many_requests() -> None:
    limited = Client(URL, headers={"Authorization": f"Bearer {ONE_A_MINUTE}"})
    limited.generate(PROMPT)
    with pytest.raises(OverloadedError):
        limited.generate(PROMPT)


def test_async() -> None:
    async def program() -> None:
        several = AsyncClient(URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        assert (await several.generate(PROMPT, max_new_tokens=50)).generated_text == ANSWER
        events = [event async for event in several.generate_stream(PROMPT, max_new_tokens=50)]
        assert events[-1].generated_text == ANSWER
        answer = await several.chat([Message(role="user", content="Hello")], temperature=0.01, seed=1)
        assert answer.choices[0].message.content == ANSWER.strip()

    asyncio.run(program())
