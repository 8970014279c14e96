"""`huggingface_hub` 0.20.3, of January 2024: `InferenceClient.text_generation`, with details, streamed, and async."""

import asyncio
import os

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.inference._text_generation import FinishReason, OverloadedError, ValidationError
from huggingface_hub.utils import HfHubHTTPError

URL, KEY, ONE_A_MINUTE = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"], os.environ["OCTUOR_LIMITED_KEY"]
PROMPT = "<s>[INST] Hello [/INST]"
ANSWER = " Hi! How are you today?"  # of the pocket model, greedily

client = InferenceClient(model=URL, token=KEY)


def test_text() -> None:
    assert client.text_generation(PROMPT, max_new_tokens=50) == ANSWER
    assert client.text_generation("[INST] Hello [/INST]", max_new_tokens=50) == ANSWER


def test_twenty_tokens_unless_said_otherwise() -> None:
    answer = client.text_generation("Once upon a time", details=True)
    assert answer.details is not None
    assert answer.details.generated_tokens == 20
    assert answer.details.finish_reason == FinishReason.Length


def test_details() -> None:
    answer = client.text_generation(PROMPT, max_new_tokens=50, details=True, decoder_input_details=True)
    assert answer.generated_text == ANSWER
    details = answer.details
    assert details is not None
    assert details.finish_reason == FinishReason.EndOfSequenceToken
    assert details.generated_tokens == len(details.tokens)
    assert "".join(token.text for token in details.tokens if not token.special) == ANSWER
    assert all(token.logprob <= 0 for token in details.tokens)
    assert [token.special for token in details.tokens] == [False] * (len(details.tokens) - 1) + [True]
    assert [token.id for token in details.prefill] == [1, 733, 16289, 28793, 22557, 733, 28748, 16289, 28793]
    assert details.prefill[0].logprob is None
    assert details.prefill[1].logprob is not None


def test_full_text() -> None:
    prompt = "Once upon a time"
    whole = client.text_generation(prompt, max_new_tokens=5, return_full_text=True)
    assert whole == prompt + client.text_generation(prompt, max_new_tokens=5)


def test_sampling() -> None:
    def ask(seed: int) -> str:
        return client.text_generation(
            "[INST] Tell me a story about a dog. [/INST]",
            do_sample=True,
            temperature=0.9,
            top_k=50,
            top_p=0.95,
            typical_p=0.95,
            repetition_penalty=1.1,
            truncate=100,
            seed=seed,
            max_new_tokens=30,
        )

    assert ask(42) == ask(42) != ask(43)


def test_stop_sequences_stay_in_the_text() -> None:
    answer = client.text_generation(PROMPT, max_new_tokens=50, stop_sequences=[" are", "never"], details=True)
    assert answer.generated_text == " Hi! How are"
    assert answer.details is not None
    assert answer.details.finish_reason == FinishReason.StopSequence


def test_best_of() -> None:
    answer = client.text_generation(PROMPT, do_sample=True, best_of=2, max_new_tokens=10, details=True)
    assert answer.details is not None
    assert answer.details.best_of_sequences is not None
    assert len(answer.details.best_of_sequences) == 1


def test_stream() -> None:
    text = "".join(client.text_generation(PROMPT, max_new_tokens=50, stream=True))
    assert text == f"{ANSWER}</s>"  # without details the client hands special tokens on too


def test_stream_with_details() -> None:
    *others, last = client.text_generation(PROMPT, max_new_tokens=50, stream=True, details=True)
    assert "".join(event.token.text for event in others) == ANSWER
    assert all(event.generated_text is None and event.details is None for event in others)
    assert last.token.special
    assert last.generated_text == ANSWER
    assert last.details is not None
    assert last.details.finish_reason == FinishReason.EndOfSequenceToken
    assert last.details.generated_tokens == len(others) + 1


def test_stream_with_a_seed() -> None:
    *_, last = client.text_generation(
        PROMPT, do_sample=True, temperature=0.9, seed=42, max_new_tokens=10, stream=True, details=True
    )
    assert last.details is not None
    assert last.details.seed == 42
    assert last.generated_text == client.text_generation(
        PROMPT, do_sample=True, temperature=0.9, seed=42, max_new_tokens=10
    )


def test_prompt_beyond_the_context() -> None:
    with pytest.raises(ValidationError, match="1024"):
        client.text_generation("word " * 2000)
    with pytest.raises(ValidationError, match="1024"):
        client.text_generation("word " * 2000, stream=True)
    assert client.text_generation("word " * 2000, truncate=100)


def test_wrong_key() -> None:
    with pytest.raises(HfHubHTTPError) as raised:
        InferenceClient(model=URL, token="wrong").text_generation(PROMPT)
    assert raised.value.response is not None
    assert raised.value.response.status_code == 401


def test_too_many_requests() -> None:
    limited = InferenceClient(model=URL, token=ONE_A_MINUTE)
    limited.text_generation(PROMPT)
    with pytest.raises(OverloadedError):
        limited.text_generation(PROMPT)


def test_async() -> None:
    async def program() -> None:
        several = AsyncInferenceClient(model=URL, token=KEY)
        assert await several.text_generation(PROMPT, max_new_tokens=50) == ANSWER
        stream = await several.text_generation(PROMPT, max_new_tokens=50, stream=True, details=True)
        events = [event async for event in stream]
        assert events[-1].generated_text == ANSWER
        with pytest.raises(ValidationError, match="1024"):
            await several.text_generation("word " * 2000)

    asyncio.run(program())
