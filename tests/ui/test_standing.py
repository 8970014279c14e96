"""What the page is told is what /metrics says; how fast a count grows."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experts.conftest import FixedBudget, StreamedToy
from octuor.api import Model
from octuor.checkpoint import open_checkpoint
from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Prompt, Request
from octuor.experts.budget import Shape
from octuor.ops.native import NativeOps
from octuor.sampling import SamplingParams
from octuor.server.registry import Registry, Served
from octuor.server.serving import Serving
from octuor.ui.standing import WINDOW_S, Speed, Standing
from tiny_models import TINY, random_checkpoint, write_model

LIMIT = 10**12


class Watch:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_told_over_the_last_seconds() -> None:
    watch = Watch()
    speed = Speed(watch)
    assert speed.look(1000) is None
    watch.now += 1
    assert speed.look(1020) == pytest.approx(20)
    watch.now += 1
    assert speed.look(1060) == pytest.approx(30)
    watch.now += WINDOW_S
    assert speed.look(1060) == pytest.approx(0)


def test_many_pages_look_at_one_count() -> None:
    watch = Watch()
    speed = Speed(watch)
    told = []
    for n in range(40):
        watch.now += 0.1
        told.append(speed.look(5 * n))
    assert told[0] is None
    assert all(value == pytest.approx(50) for value in told[6:])


def test_nothing_is_told_where_nobody_has_looked_lately() -> None:
    watch = Watch()
    speed = Speed(watch)
    speed.look(0)
    watch.now += 10 * WINDOW_S
    assert speed.look(1_000_000) is None


@pytest.fixture
def streamed(tmp_path: Path) -> Iterator[tuple[Model, Engine]]:
    """A model of which a third of the experts fit, and its engine, after an answer."""
    path = write_model(random_checkpoint(), tmp_path / "tiny.octuor")
    ops = NativeOps(threads=1)
    toy = StreamedToy(ops, open_checkpoint(path), lambda shape: 3 * max(shape.sizes))
    model = Model(open_checkpoint(path), ops, context=256, cache_dtype="f16")
    model.weights, model.store = toy.weights, toy.store
    model.budget = FixedBudget(LIMIT, Shape(TINY, 2, False, (1,)), 0, 256, 64)
    with Engine(model, EngineSettings(max_batch=2, cache_tokens=512)) as engine:
        ended = threading.Event()
        request = Request(Prompt([1, 5, 9, 77]), SamplingParams(temperature=0, max_tokens=40))
        engine.submit(request, lambda event: ended.set() if getattr(event, "finish", None) else None)
        assert ended.wait(20)
        wait_for(lambda: engine.is_idle and all(slot.job is None for slot in toy.store._all))
        yield model, engine


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def metric(serving: Serving, name: str) -> float:
    text = serving.metrics.exposition("")[0].decode()
    found = re.search(rf'^octuor_{name}{{model_name="tiny"}} (\S+)$', text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_a_status_says_what_metrics_say(streamed: tuple[Model, Engine]) -> None:
    model, engine = streamed
    serving = Serving(Registry([Served("tiny", model, engine)]))
    status = Standing(serving).now()
    [told] = status.models
    assert told.store is not None
    assert told.resident.shape == (2, 4)
    assert 0 < told.resident.sum() == metric(serving, "experts_held") < 8
    assert (told.store.hits, told.store.misses) == (
        metric(serving, "expert_hits_total"),
        metric(serving, "expert_misses_total"),
    )
    assert told.store.read_bytes == metric(serving, "expert_read_bytes_total") > 0
    assert (told.cache_pages, told.pages_used) == (
        metric(serving, "kv_cache_pages"),
        metric(serving, "kv_cache_pages_used"),
    )
    assert (told.running, told.waiting) == (0, 0)
    assert told.held_bytes == told.store.pool_bytes < told.expert_bytes
    config = model.config
    assert told.page_bytes == told.page_tokens * config.n_layers * 2 * config.n_kv_heads * config.head_dim * 2
    assert told.other_bytes + _bytes(model, ".experts.") == model.checkpoint.n_bytes
    assert status.limit_bytes == LIMIT
    assert 0 < status.headroom_bytes <= LIMIT - status.process_bytes


def _bytes(model: Model, part: str) -> int:
    return sum(model.checkpoint.get(name).nbytes for name in model.checkpoint.names if part in name)


def test_prompts_and_answers_have_speeds_of_their_own(streamed: tuple[Model, Engine]) -> None:
    model, engine = streamed
    serving, watch = Serving(Registry([Served("tiny", model, engine)])), Watch()
    standing = Standing(serving, watch)
    [before] = standing.now().models
    assert before.tokens_per_s is before.prompt_tokens_per_s is None
    engine._n_completion += 20
    engine._n_prompt += 300
    watch.now += 2
    [after] = standing.now().models
    assert after.tokens_per_s == pytest.approx(10)
    assert after.prompt_tokens_per_s == pytest.approx(150)
