"""/tokenize, /chat_tokenize and /detokenize: three dialects, told apart by the field that holds the text."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from octuor.tokenizer import AnyMessage, encode_chat
from server.http_client import Client, pocket

PROMPT = "<s>[INST] Hello 🦑 [/INST] Hi</s> [INST] Bye [/INST]"
CHAT: list[AnyMessage] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello 🦑"}]},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Bye"},
]


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


def answer(client: Client, path: str, **body: Any) -> Any:
    found = client.post(path, body)
    assert found.status_code == 200, found.text
    return found.json()


def test_tgi_tells_where_each_token_lies(client: Client) -> None:
    tokens = answer(client, "/tokenize", inputs=PROMPT, parameters={"max_new_tokens": 3})
    assert [token["id"] for token in tokens[:5]] == [1, 733, 16289, 28793, 22557]
    assert all(token["text"] == PROMPT[token["start"] : token["stop"]] for token in tokens)
    assert [token["text"] for token in tokens if token["id"] in (1, 2)] == ["<s>", "</s>"]
    assert (tokens[0]["start"], tokens[-1]["stop"]) == (0, len(PROMPT))


def test_tgi_adds_bos_unless_told_not_to(client: Client) -> None:
    assert answer(client, "/tokenize", inputs="Hello") == [
        {"id": 1, "text": "", "start": 0, "stop": 0},
        {"id": 22557, "text": "Hello", "start": 0, "stop": 5},
    ]
    assert [token["id"] for token in answer(client, "/tokenize", inputs="Hello", add_special_tokens=False)] == [22557]


def test_vllm_counts_a_prompt(client: Client) -> None:
    assert answer(client, "/tokenize", model="mistral-tiny", prompt="Hello") == {
        "tokens": [1, 22557],
        "count": 2,
        "max_model_len": 1024,
        "token_strs": None,
    }
    assert answer(client, "/tokenize", prompt="Hello", add_special_tokens=False)["tokens"] == [22557]
    assert answer(client, "/tokenize", prompt="</s>")["tokens"] == [
        1,
        1867,
        28713,
        28767,
    ]  # as /v1/completions reads it
    strings = answer(client, "/tokenize", prompt="Hello\n", return_token_strs=True)["token_strs"]
    assert strings == ["<s>", " Hello", "\n"]


def test_vllm_counts_a_conversation(client: Client) -> None:
    expected = encode_chat(pocket().tokenizer, CHAT)
    assert answer(client, "/tokenize", messages=CHAT)["tokens"] == expected
    assert answer(client, "/tokenize", messages=CHAT, add_special_tokens=True)["tokens"] == expected  # BOS is there


def test_vllm_counts_a_conversation_that_has_ended(client: Client) -> None:
    ids = answer(client, "/tokenize", messages=CHAT[:3], add_generation_prompt=False)["tokens"]
    assert ids == encode_chat(pocket().tokenizer, CHAT)[: len(ids)]
    assert ids[-2:] == [15359, 2]
    assert client.post("/tokenize", {"messages": CHAT[:3]}).status_code == 400


def test_llama_server_gives_bare_ids(client: Client) -> None:
    assert answer(client, "/tokenize", content="Hello") == {"tokens": [22557]}
    assert answer(client, "/tokenize", content="Hello", add_special=True) == {"tokens": [1, 22557]}
    assert answer(client, "/tokenize", content="<s>Hello", add_special=True) == {"tokens": [1, 22557]}
    assert answer(client, "/tokenize", content="</s>") == {"tokens": [2]}
    plain = answer(client, "/tokenize", content="</s>", parse_special=False, add_special=True)
    assert plain == {"tokens": [1, 1867, 28713, 28767]}


def test_llama_server_gives_pieces(client: Client) -> None:
    pieces = answer(client, "/tokenize", content="é🦑</s>", with_pieces=True)["tokens"]
    assert pieces[0] == {"id": 1233, "piece": " é"}
    assert pieces[1] == {"id": 243, "piece": [0xF0]}
    assert pieces[-1] == {"id": 2, "piece": "</s>"}


def test_tgi_writes_a_conversation_out(client: Client) -> None:
    found = answer(client, "/chat_tokenize", messages=CHAT, model="tgi")
    text = "<s>[INST] Be brief.\n\nHello 🦑 [/INST] Hi</s>[INST] Bye [/INST]"
    assert found["templated_text"] == text
    tokens = found["tokenize_response"]
    assert [token["id"] for token in tokens] == encode_chat(pocket().tokenizer, CHAT)
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens)


def test_detokenizing_undoes_tokenizing(client: Client) -> None:
    ids = answer(client, "/tokenize", content=PROMPT)["tokens"]
    text = answer(client, "/detokenize", tokens=ids)
    assert text == {"prompt": PROMPT.replace("</s> ", "</s>"), "content": PROMPT.replace("</s> ", "</s>")}
    assert answer(client, "/tokenize", content=text["content"])["tokens"] == ids
    assert answer(client, "/detokenize", tokens=[])["content"] == ""


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/tokenize", {}, "expected one of inputs, prompt, messages and content, found none of them"),
        ("/tokenize", {"inputs": "a", "content": "b"}, "found inputs and content"),
        ("/tokenize", {"inputs": 3}, "inputs: expected a valid string"),
        ("/tokenize", {"messages": []}, "messages: expected at least 1 items"),
        ("/tokenize", {"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role: expected"),
        ("/chat_tokenize", {}, "messages: expected a value"),
        ("/tokenize", {"inputs": "🦑" * 125_001}, "inputs: expected at most 500000 bytes long, found 500004"),
        (
            "/chat_tokenize",
            {"messages": [{"role": "user", "content": "é" * 250_001}]},
            "messages: expected at most 500000 bytes",
        ),
        ("/detokenize", {"tokens": [1, 32000]}, "expected 0 to 31999, got 32000"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0: expected greater than or equal to 0, found -1"),
        ("/detokenize", {"tokens": ["1"]}, "tokens.0: expected a valid integer"),
        ("/detokenize", {"tokens": [2**40]}, "tokens.0: expected less than or equal to 2147483647"),
        ("/detokenize", {"tokens": "1"}, "tokens: expected a valid list"),
    ],
)
def test_what_is_refused(client: Client, path: str, body: object, text: str) -> None:
    found = client.post(path, body)
    assert found.status_code == 422, found.text
    assert text in found.json()["message"]


def test_unknown_models_and_bad_text(client: Client) -> None:
    assert client.post("/tokenize", {"content": "a", "model": "gpt-4"}).status_code == 404
    for field in ("inputs", "content", "prompt"):
        found = client.request(
            "POST", "/tokenize", content=f'{{"{field}": "\\ud800"}}', headers={"content-type": "application/json"}
        )
        assert found.status_code == 400
        assert "lone surrogate" in found.json()["message"]


def test_the_model_is_told_of_tools(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather in a city"}}
    text = answer(client, "/chat_tokenize", messages=CHAT, tools=[tool])["templated_text"]
    assert text.index("Be brief.") < text.index("weather") < text.index("Hello")
    called = {"id": "a1b2c3d4e", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "sunny"},
    ]
    assert "sunny" in answer(client, "/chat_tokenize", messages=turns)["templated_text"]


def test_much_text_is_encoded_while_others_are_answered(client: Client) -> None:
    async def both() -> list[str]:
        transport = httpx.ASGITransport(client.app)
        order: list[str] = []
        async with httpx.AsyncClient(transport=transport, base_url="http://octuor") as http:

            async def ask(name: str, text: str) -> None:
                assert (await http.post("/tokenize", json={"content": text})).is_success
                order.append(name)

            await asyncio.gather(ask("much", "the " * 100_000), ask("little", "the"))
        return order

    assert asyncio.run(both()) == ["little", "much"]
