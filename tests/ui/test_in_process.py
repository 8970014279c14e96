"""The page's questions to the engine of this process: limited, accounted for and ended like any other's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octuor.accounts import Accounts, UsageRow, open_accounts, open_store
from octuor.api import Model
from octuor.config import ModelConfig
from octuor.engine.engine import Engine
from octuor.engine.request import Failed, Prefilled
from octuor.errors import EngineError, OverloadError, UiError
from octuor.ops.native import NativeOps
from octuor.routing import Routing
from octuor.server.record import RequestRecord
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.tokenizer import encode_chat
from octuor.ui.backend import Ask, ChatSettings, Delta, Done, Message, User
from octuor.ui.in_process import PATH, ROUTE_PATH, InProcess
from server.fake_engine import FakeEngine, plays, says, step
from server.http_client import pocket
from tiny_models import random_checkpoint

HELLO = (Message("user", "Hello"),)
SOMEBODY = User("b" * 43, client="127.0.0.1")


class Asked:
    """A backend over a fake engine, and what was noted of its requests."""

    def __init__(self, engine: FakeEngine, accounts: Accounts | None = None) -> None:
        self.engine = engine
        self.serving = Serving(Registry([Served("pocket", pocket(), engine)]), accounts)
        self.backend = InProcess(self.serving)
        self.records: list[RequestRecord] = []
        self.serving.listeners.append(self.records.append)

    def chat(self, user: User = SOMEBODY, **fields: Any) -> list[Delta | Done]:
        """A whole answer."""

        async def run() -> list[Delta | Done]:
            return [part async for part in self.backend.chat(user, ask(**fields))]

        return asyncio.run(run())


def ask(messages: tuple[Message, ...] = HELLO, *, continues: bool = False, **settings: Any) -> Ask:
    return Ask("pocket", messages, ChatSettings(**settings), continues)


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    with open_accounts(tmp_path) as found:
        yield found


def make_key(folder: Path, **limits: Any) -> str:
    with open_store(folder) as store:
        return store.create_key("ada", **limits)[0]


def keyed(folder: Path, **limits: Any) -> User:
    return User("b" * 43, make_key(folder, **limits))


def usage(folder: Path) -> list[UsageRow]:
    with open_store(folder) as store:
        return store.usage()


# ---- what is asked -------------------------------------------------------------------------------


def test_settings_and_messages_reach_the_engine() -> None:
    asked = Asked(FakeEngine(says("Hi", " there")))
    talk = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "And?"))
    asked.chat(messages=talk, system=" Be kind. ", temperature=0.3, max_new_tokens=7, top_p=0.5, top_k=9, seed=4)
    [request] = asked.engine.requests
    said = [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "And?")]
    assert request.prompt.ids == encode_chat(
        pocket().tokenizer, [{"role": role, "content": text} for role, text in said]
    )
    assert request.prompt.spoken  # computed as it was said, so that its keys and values are found
    params = request.params
    assert (params.temperature, params.max_tokens, params.top_p, params.top_k, params.seed) == (0.3, 7, 0.5, 9, 4)
    assert params.repetition_penalty == 1.2
    assert request.is_chat
    assert request.tenant == "local"


def test_an_answer_is_cut_to_what_the_context_leaves() -> None:
    asked = Asked(FakeEngine(says("Hi"), n_context=64))
    asked.chat(max_new_tokens=5000)
    [request] = asked.engine.requests
    assert request.params.max_tokens == 64 - len(request.prompt.ids)


def test_an_answer_is_gone_on_with() -> None:
    asked = Asked(FakeEngine(says(" there")))
    parts = asked.chat(messages=(*HELLO, Message("assistant", "Hi")), continues=True)
    [request] = asked.engine.requests
    whole = encode_chat(
        pocket().tokenizer,
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi", "prefix": True}],
    )
    assert request.prompt.ids == whole
    assert not request.is_chat
    assert isinstance(parts[0], Delta)
    assert parts[0].text == " there"  # and not what was there


@pytest.mark.parametrize("continues", [True, False])
def test_the_last_message_is_whose_it_has_to_be(continues: bool) -> None:
    wrong = HELLO if continues else (*HELLO, Message("assistant", "Hi"))
    with pytest.raises(UiError, match="messages: expected the user's message last"):
        Asked(FakeEngine(says("Hi"))).chat(messages=wrong, continues=continues)


# ---- what comes ----------------------------------------------------------------------------------


def test_deltas_then_done() -> None:
    asked = Asked(FakeEngine(says((315, "I"), (837, " am"), reason="length", cached=2)))
    *deltas, done = asked.chat()
    assert [part.text for part in deltas if isinstance(part, Delta)] == ["I", " am"]
    assert isinstance(deltas[1], Delta)
    token = deltas[1].token
    assert token is not None
    assert (token.id, token.logprob) == (837, -0.5)
    assert [logprob for _, logprob in token.top] == [-0.5, -1.0, -1.5, -2.0, -2.5]
    assert token.top[0][0] == token.piece == pocket().tokenizer.piece_bytes(837).decode()
    assert isinstance(done, Done)
    [job] = asked.engine.jobs
    assert (done.reason, done.prompt_tokens, done.completion_tokens) == ("length", job.prompt_tokens, 2)
    assert done.seconds == job.finished_at - job.first_token_at
    assert done.first_token_s > 0


def test_a_request_is_noted_like_any_other() -> None:
    asked = Asked(FakeEngine(says("Hi", " there")))
    asked.chat()
    [record] = asked.records
    assert (record.method, record.path, record.route, record.status) == ("POST", PATH, PATH, 200)
    assert (record.model, record.client, record.completion_tokens, record.finished) == (
        "pocket",
        "127.0.0.1",
        2,
        ["stop"],
    )
    assert record.error is None
    assert not record.is_client_gone
    assert asked.serving.in_progress == 0
    text = asked.serving.metrics.exposition("")[0].decode()
    assert 'octuor_http_requests_total{method="POST",route="/ui/chat",status="200"} 1.0' in text
    assert 'octuor_request_success_total{finished_reason="stop",model_name="pocket"} 1.0' in text


def test_leaving_ends_the_answer_at_once() -> None:
    hold = threading.Event()
    asked = Asked(FakeEngine(plays(Prefilled(0), step("Hi"), hold)))

    async def run() -> None:
        async with aclosing(asked.backend.chat(SOMEBODY, ask())) as parts:
            await anext(parts)
            assert asked.serving.in_progress == 1  # a server that drains waits for it

    asyncio.run(run())
    assert asked.engine.jobs[0].cancelled.is_set()
    hold.set()
    [record] = asked.records
    assert record.is_client_gone
    assert record.status == 200
    assert asked.serving.in_progress == 0


def test_a_reader_that_is_cancelled_ends_the_answer() -> None:
    hold = threading.Event()
    asked = Asked(FakeEngine(plays(Prefilled(0), hold)))

    async def read() -> None:
        async for _ in asked.backend.chat(SOMEBODY, ask()):
            pass

    async def run() -> None:
        task = asyncio.create_task(read())
        while not asked.engine.jobs:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert asked.engine.jobs[0].cancelled.is_set()
    hold.set()
    assert [(record.status, record.is_client_gone) for record in asked.records] == [(499, True)]


@pytest.mark.parametrize(
    ("engine", "line", "status"),
    [
        (lambda: FakeEngine(says("Hi"), refuses=OverloadError("the queue is full")), "the queue is full", 429),
        (lambda: FakeEngine(plays(Failed(EngineError("a step failed")))), "a step failed", 500),
        (lambda: FakeEngine(says("Hi"), n_context=4), "This model's maximum context length is 4 tokens", 400),
    ],
)
def test_failures_are_one_line(engine: Callable[[], FakeEngine], line: str, status: int) -> None:
    asked = Asked(engine())  # made here: an error that has been raised holds the model as long as it lives
    with pytest.raises(UiError, match=line):
        asked.chat()
    [record] = asked.records
    assert record.status == status
    assert record.error is not None
    assert not record.is_client_gone


def test_a_bug_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(says("Hi"))
    engine.stats = engine.submit = None  # type: ignore[assignment, method-assign]
    with pytest.raises(UiError, match="Something went wrong in the server"):
        Asked(engine).chat()
    assert "NoneType" in caplog.text


def test_an_unknown_model_and_one_that_loads() -> None:
    asked = Asked(FakeEngine(says("Hi")))
    with pytest.raises(UiError, match="The model 'other' does not exist here"):
        asyncio.run(anext(asked.backend.chat(SOMEBODY, Ask("other", HELLO, ChatSettings()))))
    asked.serving.registry = None
    with pytest.raises(UiError, match="still loading"):
        asyncio.run(asked.backend.models(SOMEBODY))
    with pytest.raises(UiError, match="still loading"):
        asyncio.run(asked.backend.status(SOMEBODY))


def test_no_more_requests_than_the_limit() -> None:
    asked = Asked(FakeEngine(says("Hi")))
    asked.serving.in_progress = asked.serving.settings.limits.max_requests
    with pytest.raises(UiError, match="The server is busy"):
        asked.chat()


# ---- keys ----------------------------------------------------------------------------------------


def test_answers_are_accounted_for_before_they_end(accounts: Accounts, tmp_path: Path) -> None:
    user = keyed(tmp_path)
    accounts._poll()
    asked = Asked(FakeEngine(says("Hi", " there")), accounts)

    async def run() -> None:
        async for part in asked.backend.chat(user, ask()):
            if isinstance(part, Done):
                [row] = usage(tmp_path)
                assert (row.name, row.requests, row.completion_tokens) == ("ada", 1, 2)

    asyncio.run(run())
    assert asked.records[0].key == "ada"
    assert asked.engine.requests[0].tenant == user.key[:11]  # type: ignore[index]


def test_keys_are_checked_with_each_request(accounts: Accounts, tmp_path: Path) -> None:
    user = keyed(tmp_path)
    accounts._poll()
    asked = Asked(FakeEngine(says("Hi")), accounts)
    assert len(asyncio.run(asked.backend.models(user))) == 1
    with open_store(tmp_path) as store:
        store.revoke("ada")
    accounts._poll()
    for attempt in (asked.backend.models(user), asked.backend.status(user)):
        with pytest.raises(UiError, match="revoked"):
            asyncio.run(attempt)
    with pytest.raises(UiError, match="revoked"):
        asked.chat(user)
    with pytest.raises(UiError, match="API key"):
        asked.chat(SOMEBODY)
    assert [record.status for record in asked.records] == [401, 401]
    assert not asked.engine.requests


def test_limits_and_models_of_a_key_hold(accounts: Accounts, tmp_path: Path) -> None:
    user = keyed(tmp_path, requests_per_minute=1)
    accounts._poll()
    asked = Asked(FakeEngine(says("Hi")), accounts)
    asked.chat(user)
    with pytest.raises(UiError, match="requests"):
        asked.chat(user)
    with open_store(tmp_path) as store:
        other = User("b" * 43, store.create_key("eve", models=frozenset({"another"}))[0])
    accounts._poll()
    assert asyncio.run(asked.backend.models(other)) == []
    with pytest.raises(UiError, match="may not use the model"):
        asked.chat(other)


# ---- how things stand ----------------------------------------------------------------------------


def test_models_tell_their_context() -> None:
    [card] = asyncio.run(Asked(FakeEngine(says("Hi"), n_context=77)).backend.models(SOMEBODY))
    assert (card.name, card.context) == ("pocket", 77)


def test_status_is_what_the_engine_counts() -> None:
    asked = Asked(FakeEngine(says("Hi")))
    status = asyncio.run(asked.backend.status(SOMEBODY))
    assert status is not None
    [model] = status.models
    config = pocket().config
    assert model.resident.shape == (config.n_layers, config.n_experts)
    assert model.resident.all()
    assert model.held_bytes == model.expert_bytes > 0
    assert (model.cache_pages, model.pages_used, model.pages_known, model.running) == (10, 7, 3, 0)
    assert status.process_bytes > 0
    assert status.headroom_bytes > 0
    assert status.limit_bytes is None


# ---- routes --------------------------------------------------------------------------------------


def test_the_routing_is_what_the_model_itself_gives() -> None:
    """Of a real engine: prompt and answer, the last token left out, as model.route computes them."""
    model = pocket()
    with Engine(model) as engine:
        serving = Serving(Registry([Served("pocket", model, engine)]))

        async def run() -> list[Delta | Done]:
            return [part async for part in InProcess(serving).chat(SOMEBODY, ask(temperature=0, max_new_tokens=12))]

        *deltas, done = asyncio.run(run())
    assert isinstance(done, Done)
    assert done.routing is not None
    found = Routing.from_bytes(done.routing)
    spoken = [part.token.id for part in deltas if isinstance(part, Delta) and part.token is not None]
    assert done.prompt_tokens is not None
    ids = [*found.ids[: done.prompt_tokens], *spoken[:-1]]
    assert found.ids.tolist() == ids
    expected = model.route(ids, spoken=[range(done.prompt_tokens, len(ids))])
    assert np.array_equal(found.experts, expected.experts)
    assert np.array_equal(found.weights, expected.weights)
    assert np.allclose(found.logprobs[done.prompt_tokens :], expected.logprobs[done.prompt_tokens :], atol=1e-5)


def test_nothing_is_recorded_where_nothing_was_computed() -> None:
    """The fake engine tells no routes."""
    done = Asked(FakeEngine(says("Hi"))).chat()[-1]
    assert isinstance(done, Done)
    assert done.routing is None


def test_any_text_is_routed_as_the_model_itself_does() -> None:
    model, text = pocket(), "A dog ran.\n\tdef f(): <b>"
    with Engine(model) as engine:
        asked = Asked(FakeEngine(says("Hi")))
        asked.serving.registry = Registry([Served("pocket", model, engine)])
        for _ in range(2):  # the second time its beginning is in the cache, and told all the same
            found = asyncio.run(asked.backend.route(SOMEBODY, "pocket", text))
            assert found is not None
            routing, expected = Routing.from_bytes(found), model.route(text)
            assert routing.ids.tolist() == expected.ids.tolist()
            assert routing.pieces == expected.pieces
            assert routing.routes == expected.routes
            assert np.allclose(routing.logprobs, expected.logprobs, atol=1e-5, equal_nan=True)
            assert routing.alternatives.pieces[1:] == expected.alternatives.pieces[1:]
    assert [(record.path, record.status, record.finished) for record in asked.records] == [
        (ROUTE_PATH, 200, ["length"])
    ] * 2
    assert not any(record.is_client_gone for record in asked.records)
    assert asked.serving.in_progress == 0


def test_a_text_is_a_request_that_limits_hold_for(accounts: Accounts, tmp_path: Path) -> None:
    user = keyed(tmp_path, requests_per_minute=1)
    accounts._poll()
    asked = Asked(FakeEngine(says("Hi"), n_context=64), accounts)
    with pytest.raises(UiError, match="maximum context length is 64 tokens"):
        asyncio.run(asked.backend.route(user, "pocket", "dog " * 100))
    asked.chat(user)
    with pytest.raises(UiError, match="requests"):
        asyncio.run(asked.backend.route(user, "pocket", "dog"))
    with pytest.raises(UiError, match="API key"):
        asyncio.run(asked.backend.route(SOMEBODY, "pocket", "dog"))
    with pytest.raises(UiError, match="does not exist"):
        asyncio.run(asked.backend.route(user, "other", "dog"))


def test_a_dense_model_has_no_routes() -> None:
    config = ModelConfig(
        dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, hidden_dim=32, vocab_size=64, n_experts=1,
        n_experts_per_token=1, max_seq_len=64,
    )  # fmt: skip
    dense = Model(random_checkpoint(config), NativeOps(threads=1), context=None, cache_dtype="f16")
    asked = Asked(FakeEngine(says("Hi")))
    asked.serving.registry = Registry([Served("dense", dense, asked.engine)])
    assert asyncio.run(asked.backend.route(SOMEBODY, "dense", "dog")) is None
    assert not asked.engine.requests
