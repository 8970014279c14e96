"""The engine on real models: answers that do not depend on neighbours, and requests that end in every way."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import numpy as np
import pytest

from engine.conftest import GREEDY, Heard, Stage
from octuor.api import Model
from octuor.engine.engine import Engine, EngineSettings, StepReport
from octuor.engine.request import Event, Failed, Finish, Pooled, Prompt, Request, Step
from octuor.errors import OverloadError, RequestError
from octuor.logit_filters import log_softmax
from octuor.sampling import SamplingParams
from octuor.tokenizer import encode_chat
from tiny_models import random_checkpoint

PROMPTS = (
    "Hello",
    "Tell me a story about a dog.",
    "Donne-moi cinq boissons.",
    "My name is Elena.",
    "Wie heißt du?",
    "Elenca cinque colori.",
)


def chat(model: Model, text: str) -> list[int]:
    return encode_chat(model.tokenizer, [{"role": "user", "content": text}])


def words(seed: int, n: int) -> list[int]:
    rng = random.Random(seed)
    return [1, *(rng.randrange(300, 30000) for _ in range(n - 1))]


# ---- the same answer, whoever else is there ------------------------------------------------------


def test_the_answers_are_the_models_own(pocket: Model) -> None:
    stage = Stage(pocket)
    params = SamplingParams(temperature=0, max_tokens=40)
    heard = [stage.ask(chat(pocket, text), params, is_chat=True) for text in PROMPTS]
    stage.finish()
    for text, each in zip(PROMPTS, heard, strict=True):
        generation = pocket.chat([{"role": "user", "content": text}], params)
        assert each.ids() == [token.id for token in generation]
        assert each.text() == generation.text
        finish = each.finish()
        assert finish is not None
        assert finish.reason == generation.finish_reason


@pytest.mark.parametrize("model_name", ["pocket", "tiny"])
def test_an_answer_is_the_same_alone_and_among_31_others(model_name: str, request: pytest.FixtureRequest) -> None:
    """Also with its log-probabilities, to the last bit: in chunks of a prompt cut anywhere, pauses included."""
    model: Model = request.getfixturevalue(model_name)
    asked = []
    for n in range(32):
        ids = words(n, 3 + 7 * n) if n % 2 else chat(model, PROMPTS[n % len(PROMPTS)])
        is_drawn = n % 3 == 0
        asked.append(
            (ids, SamplingParams(temperature=0.9 * is_drawn, seed=n, max_tokens=15 + n, min_tokens=15 + n, logprobs=1))
        )
    alone = []
    for ids, params in asked:
        alone.append(Stage(model, max_batch=1).answer(ids, params).events[1:])
    crowd = Stage(model, max_batch=32)
    heard = [crowd.ask(ids, params) for ids, params in asked]
    crowd.finish()
    assert [each.events[1:] for each in heard] == alone

    narrow = Stage(model, max_batch=8, cache_tokens=416)  # too little for eight: some are paused
    heard = [narrow.ask(ids, params) for ids, params in asked]
    narrow.finish()
    assert narrow.engine.stats().preemptions > 0
    assert [each.events[1:] for each in heard] == alone


def test_the_next_turn_of_a_chat_is_the_same_cached_or_not(pocket: Model) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, logprobs=0)
    first = chat(pocket, "Tell me a story about a dog.")
    stage = Stage(pocket)
    said = stage.answer(first, params).ids()
    said = said[:-1] if said[-1] == 2 else said
    more = pocket.tokenizer.encode("[INST] And then? [/INST]")
    turn = [*first, *said, 2, *more]
    spoken = [range(len(first), len(first) + len(said) + 1)]
    cached = stage.answer(turn, params, spoken=spoken)
    fresh = Stage(pocket).answer(turn, params, spoken=spoken)
    assert cached.prefilled.cached_tokens >= (len(first) + len(said)) // 32 * 32 > 0
    assert fresh.prefilled.cached_tokens == 0
    assert cached.events[1:] == fresh.events[1:]


def test_a_seed_gives_each_choice_its_own_text_always(pocket: Model) -> None:
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=15)
    ids = chat(pocket, PROMPTS[1])
    together = Stage(pocket).answer(ids, params, n=4)
    texts = [together.ids(choice) for choice in range(4)]
    assert len(set(map(tuple, texts))) > 1
    stage = Stage(pocket)
    stage.ask(words(5, 200), GREEDY)
    again = stage.ask(ids, params, n=4)
    stage.finish()
    assert [again.ids(choice) for choice in range(4)] == texts
    assert together.events[0].__class__.__name__ == "Prefilled"
    assert sum(type(event).__name__ == "Prefilled" for event in together.events) == 1


# ---- prefixes ------------------------------------------------------------------------------------


def test_a_repeated_prompt_is_not_computed_again(pocket: Model) -> None:
    stage = Stage(pocket)
    ids = words(1, 200)
    first, second = stage.answer(ids), stage.answer(ids)
    assert (first.prefilled.cached_tokens, second.prefilled.cached_tokens) == (0, 192)
    assert first.ids() == second.ids()
    stats = stage.engine.stats()
    assert (stats.prefix_tokens, stats.prefix_tokens_cached) == (400, 192)
    assert stats.prompt_tokens == 208


def test_pages_come_back(pocket: Model) -> None:
    stage = Stage(pocket)
    for seed in range(5):
        stage.ask(words(seed, 100), GREEDY, n=2)
    stage.finish()
    assert stage.engine.stats().pages_used == stage.engine.stats().pages_known > 0
    stage.engine.forget_prefixes()
    assert stage.engine.stats().pages_used == 0


# ---- endings -------------------------------------------------------------------------------------


def test_stop_strings_end_an_answer_and_are_no_part_of_it(pocket: Model) -> None:
    ids = chat(pocket, PROMPTS[1])
    whole = Stage(pocket).answer(ids, SamplingParams(temperature=0, max_tokens=40), is_chat=True).text()
    stop = whole[20:26]
    heard = Stage(pocket).answer(ids, SamplingParams(temperature=0, max_tokens=40, stop=(stop, "never")), is_chat=True)
    assert heard.text() == whole[: whole.index(stop)]
    assert heard.finish() == Finish("stop", stop)


def test_no_tokens_wanted(tiny: Model) -> None:
    heard = Stage(tiny).answer(words(0, 9), SamplingParams(max_tokens=0), n=2)
    assert [(step.choice, step.token, step.finish) for step in (*heard.of(0), *heard.of(1))] == [
        (0, None, Finish("length")),
        (1, None, Finish("length")),
    ]


def test_the_end_of_the_context(tiny: Model) -> None:
    stage = Stage(tiny, cache_tokens=64)
    heard = stage.answer(words(0, 60), SamplingParams(temperature=0))
    assert len(heard.ids()) == 4
    assert heard.finish() == Finish("length")
    with pytest.raises(RequestError, match="context of 64"):
        stage.ask(words(0, 64))


@pytest.mark.parametrize(
    ("ids", "changes", "says"),
    [
        ([], {}, "at least one token"),
        ([1, 40000], {}, "found 40000"),
        ([1, 5], {"n": 33}, "1 to 32 choices"),
        ([1, 5], {"params": SamplingParams(stop_ids=(32000,))}, "stop_ids"),
    ],
)
def test_requests_that_cannot_be_answered(tiny: Model, ids: list[int], changes: dict, says: str) -> None:
    stage = Stage(tiny)
    with pytest.raises(RequestError, match=says):
        stage.ask(ids, **changes)
    assert stage.engine.is_idle


def test_one_that_fails_takes_nobody_with_it(tiny: Model) -> None:
    stage = Stage(tiny)
    good = stage.ask(words(1, 20))
    bad = stage.ask(words(2, 20), SamplingParams(max_tokens=9), grammar=Grammar(dies_after=3))
    worse = stage.ask(
        words(3, 20), SamplingParams(max_tokens=9), grammar=Grammar(dies_after=2, error=ZeroDivisionError)
    )
    stage.finish()
    assert good.ids() == Stage(tiny).answer(words(1, 20)).ids()
    assert (len(bad.ids()), str(bad.error)) == (3, "the grammar ran out")
    assert len(worse.ids()) == 2
    assert "choosing a token failed" in str(worse.error)
    assert stage.engine.stats().running == 0


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_cancelled_at_any_time(tiny: Model, after: int) -> None:
    stage = Stage(tiny)
    stays, goes = Heard(), Heard()
    stage.engine.submit(Request(Prompt(words(1, 700)), GREEDY), stays.events.append)
    job = stage.engine.submit(Request(Prompt(words(2, 700)), replace(GREEDY, max_tokens=50), n=2), goes.events.append)
    for _ in range(after):
        stage.engine.step()
    job.cancel()
    n_heard = len(goes.events)
    stage.finish()
    job.cancel()  # once more, when all is over
    stage.engine.step()
    assert len(goes.events) == n_heard
    assert len(stays.ids()) == 12
    assert stage.engine.is_idle
    stage.engine.forget_prefixes()
    assert stage.engine.stats().pages_used == 0


def test_a_full_queue_and_a_server_about_to_stop(tiny: Model) -> None:
    stage = Stage(tiny, max_batch=1, max_queue=2)
    for seed in range(3):
        stage.ask(words(seed, 5))
    with pytest.raises(OverloadError, match="queue is full") as full:
        stage.ask(words(9, 5))
    assert not full.value.is_draining
    stage.finish()
    stage.ask(words(9, 5))
    stage.engine.drain()
    with pytest.raises(OverloadError) as draining:
        stage.ask(words(9, 5))
    assert draining.value.is_draining
    stage.finish()


# ---- what can be asked beside text ---------------------------------------------------------------


class Grammar:
    """Permits ids in turn; its masks can be made to fail."""

    def __init__(self, *permitted: int, dies_after: int | None = None, error: type[Exception] = RequestError) -> None:
        self._permitted, self._dies_after, self._error = permitted, dies_after, error
        self._taken: list[int] = []

    def matcher(self) -> Grammar:
        return Grammar(*self._permitted, dies_after=self._dies_after, error=self._error)

    def mask(self) -> np.ndarray:
        if len(self._taken) == self._dies_after:
            raise self._error("the grammar ran out")
        if not self._permitted:
            return np.ones(32000, dtype=np.bool_)
        mask = np.zeros(32000, dtype=np.bool_)
        mask[[*self._permitted, 2][len(self._taken)]] = True
        return mask

    def advance(self, token_id: int) -> None:
        self._taken.append(token_id)


def test_a_grammar_decides_what_may_come(tiny: Model) -> None:
    stage = Stage(tiny)
    free = stage.ask(words(1, 20))
    held = stage.ask(
        words(1, 20), SamplingParams(temperature=1, seed=1, max_tokens=20), grammar=Grammar(50, 60, 70), n=2
    )
    stage.finish()
    assert held.ids(0) == held.ids(1) == [50, 60, 70, 2]
    assert held.finish(0) == Finish("stop")
    assert free.ids() == Stage(tiny).answer(words(1, 20)).ids()


def test_log_probabilities_of_a_prompt(tiny: Model) -> None:
    ids = words(3, 700)  # in two chunks
    heard = Stage(tiny, cache_dtype="f32").answer(ids, SamplingParams(max_tokens=0), prompt_logprobs=2)
    tokens = heard.prefilled.prompt
    expected = np.stack([log_softmax(row) for row in tiny.logits(ids)])
    assert [token.id for token in tokens] == ids
    assert tokens[0].logprob is None
    found = np.array([token.logprob for token in tokens[1:]])
    assert np.abs(found - expected[np.arange(699), ids[1:]]).max() < 1e-4
    assert [token.top[0][0] for token in tokens[1:]] == [int(row.argmax()) for row in expected[:-1]]
    assert all(len(token.top) == 2 for token in tokens[1:])


def test_pooled_vectors_do_not_depend_on_the_batch(pocket: Model) -> None:
    alone = [Stage(pocket).answer(chat(pocket, text), pooled=True).events[-1] for text in PROMPTS]
    stage = Stage(pocket)
    stage.ask(words(0, 900), GREEDY)
    heard = [stage.ask(chat(pocket, text), pooled=True) for text in PROMPTS]
    stage.finish()
    for each, expected in zip(heard, alone, strict=True):
        vector = each.events[-1]
        assert isinstance(vector, Pooled)
        assert isinstance(expected, Pooled)
        assert vector.vector.shape == (pocket.config.dim,)
        assert abs(float(np.linalg.norm(vector.vector)) - 1) < 1e-6
        np.testing.assert_array_equal(vector.vector, expected.vector)


def test_a_reader_that_is_paused_reads_again(tiny: Model) -> None:
    alone = Stage(tiny).answer(words(7, 90), prompt_logprobs=0)
    stage = Stage(tiny, cache_tokens=160, max_batch=4)
    stage.ask(words(1, 40), replace(GREEDY, max_tokens=110))
    heard = stage.ask(words(7, 90), prompt_logprobs=0)
    stage.finish()
    assert heard.events == alone.events


# ---- the thread ----------------------------------------------------------------------------------


def test_many_callers_at_once(tiny: Model) -> None:
    reports: list[StepReport] = []
    with Engine(tiny, EngineSettings(), on_step=reports.append) as engine:
        expected = {seed: Stage(tiny).answer(words(seed, 30)).ids() for seed in range(8)}
        found: dict[int, list[int]] = {}

        def call(seed: int) -> None:
            events: list[Event] = []
            done = threading.Event()

            def deliver(event: Event) -> None:
                events.append(event)
                if isinstance(event, Failed) or (isinstance(event, Step) and event.finish):
                    done.set()

            job = engine.submit(Request(Prompt(words(seed, 30)), GREEDY), deliver)
            assert done.wait(30)
            assert job.arrived_at <= job.started_at <= job.first_token_at <= job.finished_at
            assert (job.prompt_tokens, job.completion_tokens) == (30, 12)
            found[seed] = Heard(events).ids()

        callers = [threading.Thread(target=call, args=(seed,)) for seed in expected]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert found == expected
    assert sum(report.n_prompt_tokens for report in reports) == 8 * 30
    assert all(report.seconds >= report.forward_s + report.choose_s > 0 for report in reports)


def test_what_is_under_way_fails_when_the_engine_stops() -> None:
    model_events: list[Event] = []
    started = threading.Event()

    def deliver(event: Event) -> None:
        model_events.append(event)
        started.set()

    from octuor.ops.native import NativeOps

    model = Model(random_checkpoint(), NativeOps(threads=1), context=None, cache_dtype="f16")
    with Engine(model, EngineSettings()) as engine:
        engine.submit(Request(Prompt(words(1, 30)), SamplingParams(temperature=0)), deliver)
        assert started.wait(30)
    last = model_events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, OverloadError)
