"""An engine over a model under a limit of memory: the same answers, whole chunks, a cache that leaves room."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.conftest import GREEDY, Stage
from octuor.api import Model, load
from octuor.checkpoint import open_checkpoint
from octuor.engine.pace import LEAST_CHUNK, Pace
from octuor.engine.room import cache_room
from octuor.experts import budget
from octuor.ops.native import NativeOps
from tiny_models import random_checkpoint, write_model


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Two experts are in memory, and the limit is what all else is said to need."""
    path = write_model(random_checkpoint(), tmp_path / "tiny.octuor")
    monkeypatch.setattr(budget, "resident_bytes", lambda: 0)
    monkeypatch.setattr(budget, "SPARE", 0)
    monkeypatch.setattr(budget.Budget, "pool", lambda self, *_: 2 * max(self.shape.sizes))
    with pytest.raises(Exception, match="expected at least") as least:
        load(path, memory=1, context=64)
    needed = float(str(least.value).split("at least ")[1].split(" ")[0]) * 1e6
    return load(path, memory=int(needed) + 10_000, context=64, threads=1)


def test_answers_are_those_of_the_resident_model(streamed: Model) -> None:
    assert streamed.is_streamed
    resident = Model(open_checkpoint(streamed.checkpoint.source), NativeOps(threads=1), context=64, cache_dtype="f16")
    prompts = [[1, 2, 3], list(range(40)), [9] * 7]
    found = []
    for model in (streamed, resident):
        stage = Stage(model, max_batch=4, cache_tokens=512)
        heard = [stage.ask(ids, GREEDY) for ids in prompts]
        stage.finish()
        found.append([one.ids() for one in heard])
    assert found[0] == found[1]
    assert stage.engine.stats().store is None
    stats = Stage(streamed, cache_tokens=64).engine.stats().store
    assert stats is not None
    assert stats.misses


def test_chunks_of_prompts_are_whole(streamed: Model) -> None:
    pace = Stage(streamed, cache_tokens=64).engine._pace
    for _ in range(3):
        pace.measured(4, 0, 0.1)
        pace.measured(4, 64, 30.0)
    assert pace.chunk(4, 1) == streamed.chunk
    usual = Pace()
    for _ in range(3):
        usual.measured(4, 0, 0.1)
        usual.measured(4, 64, 30.0)
    assert usual.chunk(4, 1) == LEAST_CHUNK


def test_the_cache_leaves_room_for_an_expert(streamed: Model) -> None:
    assert streamed.budget is not None
    n_bytes = streamed.budget.shape.cache(cache_room(streamed, 32, "f16"))
    assert n_bytes <= max(streamed.budget.cache_room, streamed.budget.shape.cache(streamed.context))
