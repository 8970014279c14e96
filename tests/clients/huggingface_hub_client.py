"""`huggingface_hub`, the newest: `text_generation` and `chat_completion`, streamed and not, sync and async."""

import asyncio
import json
import os

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, OverloadedError, ValidationError

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
PROMPT = "<s>[INST] Hello [/INST]"
HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily
ANIMAL = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["cat", "dog"]}},
    "required": ["kind"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lyon"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}]

client = InferenceClient(model=URL, token=KEY)


def test_text_generation() -> None:
    # this client leaves return_full_text to the server, and TGI then gives the prompt back too
    assert client.text_generation(PROMPT, max_new_tokens=50) == f"{PROMPT} {ANSWER}"
    assert client.text_generation(PROMPT, max_new_tokens=50, return_full_text=False) == f" {ANSWER}"


def test_text_generation_with_details() -> None:
    answer = client.text_generation(
        PROMPT, max_new_tokens=50, details=True, decoder_input_details=True, top_n_tokens=2, return_full_text=False
    )
    assert answer.generated_text == f" {ANSWER}"
    assert answer.details.finish_reason == "eos_token"
    assert answer.details.generated_tokens == len(answer.details.tokens)
    assert len(answer.details.prefill) == 9
    assert [len(tops) for tops in answer.details.top_tokens] == [2] * len(answer.details.tokens)


def test_text_generation_streamed() -> None:
    text = "".join(client.text_generation(PROMPT, max_new_tokens=50, stream=True))
    assert text.removesuffix("</s>") == f" {ANSWER}"  # without details the client hands special tokens on too
    events = list(client.text_generation(PROMPT, max_new_tokens=50, stream=True, details=True, return_full_text=False))
    assert [event.index for event in events] == list(range(1, len(events) + 1))
    assert events[-1].generated_text == f" {ANSWER}"
    assert events[-1].details.finish_reason == "eos_token"
    assert events[-1].details.input_length == 9


def test_text_generation_of_line_separators() -> None:
    # the client cuts lines with str.splitlines(), which knows more ends of line than the event stream does
    odd = "one\u2028two\u2029three\u0085four"
    grammar = {"type": "regex", "value": odd}
    text = "".join(client.text_generation(PROMPT, max_new_tokens=50, stream=True, grammar=grammar))
    assert text.removesuffix("</s>") == odd


def test_text_generation_with_a_grammar() -> None:
    text = client.text_generation(
        PROMPT, max_new_tokens=100, return_full_text=False, grammar={"type": "json", "value": ANIMAL}
    )
    assert json.loads(text)["kind"] in ("cat", "dog")


def test_chat_completion() -> None:
    answer = client.chat_completion(HELLO, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.total_tokens == 9 + answer.usage.completion_tokens


def test_every_base_address() -> None:
    for model in (URL, f"{URL}/v1", f"{URL}/v1/chat/completions"):
        answer = InferenceClient(model=model, token=KEY).chat_completion(HELLO, temperature=0)
        assert answer.choices[0].message.content == ANSWER
    answer = InferenceClient(base_url=f"{URL}/v1", api_key=KEY).chat.completions.create(
        model="mistralai/Mixtral-8x7B-Instruct-v0.1", messages=HELLO, temperature=0
    )
    assert answer.choices[0].message.content == ANSWER
    assert answer.model == "mistralai/Mixtral-8x7B-Instruct-v0.1"


def test_chat_completion_with_every_parameter() -> None:
    answer = client.chat_completion(
        HELLO,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        logit_bias=[0.0],
        logprobs=True,
        top_logprobs=2,
        max_tokens=10,
        n=2,
        seed=1,
        stop=["never"],
        temperature=1.0,
        top_p=0.9,
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_chat_completion_streamed() -> None:
    chunks = list(client.chat_completion(HELLO, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    *chunks, last = client.chat_completion(HELLO, temperature=0, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.prompt_tokens == 9
    assert all(chunk.usage is None for chunk in chunks)


def test_chat_completion_of_line_separators() -> None:
    odd = "one\u2028two\u2029three\u0085four"
    chunks = list(client.chat_completion(HELLO, stream=True, response_format={"type": "regex", "value": odd}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == odd


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json", "value": ANIMAL},
        {"type": "json_object", "value": ANIMAL},
        {"type": "json_schema", "json_schema": {"name": "animal", "schema": ANIMAL, "strict": True}},
    ],
    ids=["json", "json_object", "json_schema"],
)
def test_response_format(response_format: dict[str, object]) -> None:
    answer = client.chat_completion(HELLO, response_format=response_format)
    assert json.loads(answer.choices[0].message.content)["kind"] in ("cat", "dog")


def test_tools() -> None:
    answer = client.chat_completion(HELLO, tools=TOOLS, tool_choice="required")
    assert answer.choices[0].finish_reason == "tool_calls"
    for call in answer.choices[0].message.tool_calls:
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Lyon")
    answer = client.chat_completion(HELLO, tools=TOOLS, tool_choice={"function": {"name": "weather"}})
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


def test_endpoint_info() -> None:
    endpoint = InferenceClient(model=URL, token=KEY, provider="hf-inference")
    assert endpoint.health_check()
    info = endpoint.get_endpoint_info()
    assert info["max_total_tokens"] == 1024
    assert info["model_id"]


def test_prompt_beyond_the_context() -> None:
    with pytest.raises(ValidationError, match="1024"):
        client.text_generation("word " * 2000)
    with pytest.raises(BadRequestError, match="maximum context length is 1024 tokens"):
        client.chat_completion([{"role": "user", "content": "word " * 2000}])


def test_bad_value() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        client.text_generation(PROMPT, temperature=-1)
    with pytest.raises(HfHubHTTPError, match="temperature") as raised:
        client.chat_completion(HELLO, temperature=-1)
    assert raised.value.response.status_code == 422


def test_wrong_key() -> None:
    stranger = InferenceClient(model=URL, token="wrong")
    for ask in (lambda: stranger.text_generation(PROMPT), lambda: stranger.chat_completion(HELLO)):
        with pytest.raises(HfHubHTTPError) as raised:
            ask()
        assert raised.value.response.status_code == 401


def test_too_many_requests() -> None:
    limited = InferenceClient(model=URL, token=ONE_A_MINUTE)
    limited.text_generation(PROMPT)
    with pytest.raises(OverloadedError):
        limited.text_generation(PROMPT)
    with pytest.raises(HfHubHTTPError) as raised:
        limited.chat_completion(HELLO)
    assert raised.value.response.status_code == 429


def test_async() -> None:
    async def program() -> None:
        several = AsyncInferenceClient(model=URL, token=KEY)
        text = await several.text_generation(PROMPT, max_new_tokens=50, return_full_text=False)
        assert text == f" {ANSWER}"
        stream = await several.text_generation(
            PROMPT, max_new_tokens=50, stream=True, details=True, return_full_text=False
        )
        assert [event async for event in stream][-1].generated_text == f" {ANSWER}"
        answer = await several.chat_completion(HELLO, temperature=0)
        assert answer.choices[0].message.content == ANSWER
        chunks = await several.chat_completion(HELLO, temperature=0, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == ANSWER

    asyncio.run(program())
