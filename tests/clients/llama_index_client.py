"""LlamaIndex over an OpenAI-compatible address: OpenAILike (complete, chat, stream, structured output) and an index."""

import asyncio
import os
from typing import Literal

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from openai import NotFoundError
from pydantic import BaseModel

URL, KEY = os.environ["OCTUOR_URL"], os.environ["OCTUOR_KEY"]
ANSWER = "Hi! How are you today?"  # of the pocket model, greedily


def llm(model: str = "open-mixtral-8x7b", **options: object) -> OpenAILike:
    return OpenAILike(
        api_base=f"{URL}/v1", api_key=KEY, model=model, is_chat_model=True, context_window=1024, temperature=0,
        max_retries=0, **options,
    )  # fmt: skip


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog"]
    legs: Literal[3, 4]


def test_complete_and_chat() -> None:
    assert str(llm().complete("Hello")) == ANSWER
    answer = llm().chat([ChatMessage(role="system", content="Be kind."), ChatMessage(role="user", content="Hello")])
    assert answer.message.content


def test_streams() -> None:
    chunks = [chunk.delta for chunk in llm().stream_chat([ChatMessage(role="user", content="Hello")])]
    assert "".join(filter(None, chunks)) == ANSWER
    assert len(chunks) > 3


def test_async() -> None:
    async def program() -> str:
        return str(await llm().acomplete("Hello"))

    assert asyncio.run(program()) == ANSWER


def test_structured_output() -> None:
    able = llm(is_function_calling_model=True)
    answer = able.as_structured_llm(Animal).complete("Hello")
    assert isinstance(answer.raw, Animal)


def test_an_index_answers_from_documents() -> None:
    Settings.llm = llm()
    Settings.embed_model = OpenAILikeEmbedding(api_base=f"{URL}/v1", api_key=KEY, model_name="mistral-embed")
    texts = ["The cat sleeps on the red sofa.", "Paris is the capital of France."]
    index = VectorStoreIndex.from_documents([Document(text=text) for text in texts])
    found = index.as_retriever(similarity_top_k=2).retrieve("Where does the cat sleep?")
    assert {node.get_content() for node in found} == set(texts)
    answer = index.as_query_engine(similarity_top_k=1).query("Where does the cat sleep?")
    assert answer.source_nodes


def test_unknown_models_are_said() -> None:
    with pytest.raises(NotFoundError, match="no-such-model"):
        llm("no-such-model").complete("Hello")
