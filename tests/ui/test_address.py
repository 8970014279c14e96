"""The page's questions to an address, against servers that misbehave in every way that servers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from fake_openai import DONE, Asked, FakeServer, event, head, piece, serving, usage, whole
from octuor.errors import ConfigError, UiError
from octuor.ui.address import Address, base_of
from octuor.ui.backend import Ask, ChatSettings, Delta, Done, Message, User
from server.live_server import live_server, until

SOMEBODY = User("b" * 43)
HELLO = (Message("user", "Hello"),)


def ask(
    messages: tuple[Message, ...] = HELLO, *, model: str = "fake-1", continues: bool = False, **settings: Any
) -> Ask:
    return Ask(model, messages, ChatSettings(**settings), continues)


def told(fake: FakeServer, question: Ask | None = None, key: str | None = None) -> list[Delta | Done]:
    """A whole answer."""

    async def run() -> list[Delta | Done]:
        async with serving(fake):
            address = Address(fake.url, key)
            try:
                return [part async for part in address.chat(SOMEBODY, question or ask())]
            finally:
                await address.close()

    return asyncio.run(run())


def text_of(parts: list[Delta | Done]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Delta))


def says(*parts: bytes) -> FakeServer:
    """A server whose answers are these bytes, sent one by one."""

    async def answer(_: Asked) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return FakeServer(answer)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://api.example.org/v1", "https://api.example.org/v1"),
        ("https://api.example.org/v1/chat/completions", "https://api.example.org/v1"),
        ("https://api.example.org/openai/v1/", "https://api.example.org/openai/v1"),
        ("https://example.org/api/paas/v4", "https://example.org/api/paas/v4"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_addresses_are_taken_as_they_are_copied(given: str, base: str) -> None:
    assert base_of(given) == base


@pytest.mark.parametrize("given", ["", "ftp://host", "http://", "http://user:word@host", "http://host/?key=1", "a b"])
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="server: expected an address such as"):
        base_of(given)


def test_an_answer_with_its_counts() -> None:
    fake = FakeServer()
    *deltas, done = told(fake, ask(max_new_tokens=3), key="sk-secret")
    assert [part.text for part in deltas if isinstance(part, Delta)] == [" 0", " 1", " 2"]
    assert isinstance(done, Done)
    assert (done.reason, done.prompt_tokens, done.completion_tokens) == ("length", 4, 3)
    assert done.seconds >= 0
    assert done.routing is None
    assert fake.asked[0].headers["authorization"] == "Bearer sk-secret"


def test_models_and_how_they_go_on() -> None:
    cards = {"data": [{"id": "fake-1", "owned_by": "vllm", "max_model_len": 99}]}
    fake = FakeServer(small={"/v1/models": lambda _: whole(cards)})

    async def run() -> None:
        async with serving(fake):
            address = Address(fake.url)
            [card] = await address.models(SOMEBODY)
            assert (card.name, card.context, card.can_observe) == ("fake-1", 99, False)
            assert await address.status(SOMEBODY) is None

    asyncio.run(run())
    told(
        fake, ask((*HELLO, Message("assistant", "Hi")), continues=True, max_new_tokens=1)
    )  # asks for the models itself
    assert fake.asked[0].body["continue_final_message"] is True


def test_a_refused_setting_is_left_out_from_then_on() -> None:
    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        for name in ("top_k", "repetition_penalty", "repeat_penalty"):
            if name in asked.body:
                yield whole({"error": {"message": f"Unrecognized request argument supplied: {name}"}}, 400)
                return
        yield head() + piece("Hi", finish="stop") + DONE

    fake = FakeServer(answer)

    async def run() -> None:
        async with serving(fake):
            address = Address(fake.url)
            for _ in range(2):
                parts = [part async for part in address.chat(SOMEBODY, ask())]
                assert text_of(parts) == "Hi"
                assert isinstance(parts[-1], Done)
                assert parts[-1].ignored == ("top_k", "repetition_penalty")

    asyncio.run(run())
    assert len(fake.asked) == 5  # four to learn, one to know


def test_streams_cut_anywhere_are_read_whole() -> None:
    """Also where a character of UTF-8 or a line that only Python ends is cut in two; comments are passed over."""
    data = head() + b": ping\r\n\r\n" + piece("Grüße\u2028 1").replace(b"\n", b"\r\n")
    data += event(json.dumps({"choices": [{"delta": {"content": "\u2028…"}}]}, ensure_ascii=False).encode())
    data += b"event: x\nid: 3\n" + piece(" 2", finish="stop") + usage(1, 2) + DONE
    parts = told(says(*(data[at : at + 1] for at in range(len(data)))))
    assert text_of(parts) == "Grüße\u2028 1\u2028… 2"
    assert isinstance(parts[-1], Done)
    assert parts[-1].completion_tokens == 2


def test_counts_are_unknown_where_the_server_does_not_tell() -> None:
    done = told(says(head() + piece("Hi", finish="stop") + DONE))[-1]
    assert isinstance(done, Done)
    assert (done.prompt_tokens, done.completion_tokens, done.tokens_per_s) == (None, None, None)


@pytest.mark.parametrize(
    ("fake", "line"),
    [
        (says(head() + piece("Hi")), "the answer broke off"),
        (says(head() + event({"error": {"message": "out of memory"}})), "the server: out of memory"),
        (says(head() + event(b"{")), "expected events of JSON"),
        (says(whole({"error": {"message": "bad key"}}, 401)), "401: bad key; give the server's key with --key"),
        (says(whole({"detail": [{"msg": "too long"}]}, 413)), "413: too long"),
        (says(whole({"object": "error", "message": "no"}, 500)), "500: no"),
        (says(whole([], 503)), "503: no reason given"),
        (says(b"nonsense\r\n\r\n"), "the connection broke"),
    ],
)  # fmt: skip
def test_failures_are_one_line(fake: FakeServer, line: str) -> None:
    with pytest.raises(UiError, match=line) as caught:
        told(fake, key="sk-secret")
    assert "\n" not in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_nobody_there_and_no_models() -> None:
    with pytest.raises(UiError, match="no server answers there"):
        asyncio.run(Address("http://127.0.0.1:9").models(SOMEBODY))

    async def run() -> None:
        async with serving(FakeServer(small={"/v1/models": lambda _: whole({"data": []})})) as fake:
            await Address(fake.url).models(SOMEBODY)

    with pytest.raises(UiError, match="expected a list of models, found none"):
        asyncio.run(run())


def test_leaving_ends_the_connection() -> None:
    async def answer(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece("Hi")
        while True:
            await asyncio.sleep(0.001)
            yield piece(" and")

    async def run() -> None:
        async with serving(FakeServer(answer)) as fake:
            async with aclosing(Address(fake.url).chat(SOMEBODY, ask())) as parts:
                await anext(parts)
                assert fake.at_once == 1
            async with asyncio.timeout(5):
                while fake.at_once:
                    await asyncio.sleep(0.001)

    asyncio.run(run())


def test_octuor_is_such_an_address() -> None:
    """The real server on the other side, with the fake engine under it: all settings, and going on with an answer."""
    with live_server() as live:

        async def run() -> None:
            address = Address(live.url)
            assert [card.name for card in await address.models(SOMEBODY)] == ["pocket"]
            parts = [part async for part in address.chat(SOMEBODY, ask(model="pocket", seed=1))]
            assert text_of(parts) == "Hi there"
            assert isinstance(parts[-1], Done)
            assert (parts[-1].reason, parts[-1].completion_tokens, parts[-1].ignored) == ("stop", 2, ())
            talk = (*HELLO, Message("assistant", "Oh."))
            parts = [part async for part in address.chat(SOMEBODY, ask(talk, model="pocket", continues=True))]
            assert text_of(parts) == "Hi there"  # without the "Oh." that the server repeats
            await address.close()

        asyncio.run(run())
        chats = "/v1/chat/completions"
        until(lambda: sum(record.path == chats for record in live.records) == 2, "both records")
        first, second = (record for record in live.records if record.path == chats)
    assert first.jobs[0].request.params.repetition_penalty == 1.2
    assert second.jobs[0].request.is_chat is False
