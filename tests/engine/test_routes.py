"""Routes that the engine records are those that model.route finds: to the last bit, whatever else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_files import random_adapter
from engine.conftest import Heard, Stage
from octuor import model as forward_pass
from octuor.api import Model
from octuor.batch import Batch
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.model import forward
from octuor.ops import Array, Ops
from octuor.ops.native import NativeOps
from octuor.routing import TokenRoutes
from octuor.sampling import SamplingParams
from octuor.weights import Weights
from tiny_models import TINY, random_checkpoint

PARAMS = SamplingParams(temperature=0, max_tokens=20, min_tokens=20)


def words(seed: int, n: int) -> list[int]:
    return [1, *np.random.default_rng(seed).integers(300, 30000, n - 1).tolist()]


def told(heard: Heard, choice: int = 0) -> TokenRoutes:
    """Of the prompt but for its cached tokens, and of a choice but for its last token."""
    first, *later = heard.of(choice)
    assert heard.prefilled.routes is not None
    assert first.routes is None
    parts = [step.routes for step in later]
    assert all(part is not None and len(part) == 1 for part in parts)
    return TokenRoutes.joined([heard.prefilled.routes, *(part for part in parts if part is not None)])


def found(model: Model, prompt: list[int], answer: list[int], spoken: tuple[range, ...] = ()) -> TokenRoutes:
    """The model's own, of all but the last token."""
    ids = [*prompt, *answer]
    return model.route(ids, spoken=[*spoken, range(len(prompt), len(ids))], alternatives=None).routes[:-1]


@pytest.mark.parametrize("model_name", ["pocket", "tiny"])
@pytest.mark.parametrize("n", [1, 2, 33, 600])
def test_of_a_prompt_and_its_answer(model_name: str, n: int, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(model_name)
    prompt = words(n, n)
    heard = Stage(model).answer(prompt, PARAMS, routes=True)
    assert told(heard) == found(model, prompt, heard.ids())
    plain = Stage(model).answer(prompt, PARAMS)
    assert plain.ids() == heard.ids()
    assert plain.prefilled.routes is None
    assert all(step.routes is None for step in plain.of(0))


def test_among_others_that_want_none_and_in_parts(tiny: Model) -> None:
    """Also with prompt log-probabilities, which keep more rows, and with a prompt that is read beside answers."""
    stage = Stage(tiny, max_batch=8)
    prompts = [words(n, 5 + 110 * n) for n in range(6)]
    heard = [
        stage.ask(prompt, PARAMS, routes=n % 3 > 0, prompt_logprobs=2 if n % 4 == 2 else None)
        for n, prompt in enumerate(prompts)
    ]
    stage.finish()
    for n, (prompt, each) in enumerate(zip(prompts, heard, strict=True)):
        if n % 3:
            assert told(each) == found(tiny, prompt, each.ids())
        else:
            assert each.prefilled.routes is None
    assert heard[5].ids() == Stage(tiny).answer(prompts[5], PARAMS).ids()


def test_of_several_choices(tiny: Model) -> None:
    prompt = words(3, 70)
    params = SamplingParams(temperature=1.0, seed=5, max_tokens=9, min_tokens=9)
    heard = Stage(tiny).answer(prompt, params, routes=True, n=3)
    for choice in range(3):
        assert told(heard, choice) == found(tiny, prompt, heard.ids(choice))


def test_cached_tokens_have_none(tiny: Model) -> None:
    stage, prompt = Stage(tiny), words(4, 100)
    stage.answer(prompt[:70])
    heard = stage.answer(prompt, PARAMS, routes=True)
    assert heard.prefilled.cached_tokens == 64
    assert told(heard) == found(tiny, prompt, heard.ids())[64:]


def test_of_the_next_turn_of_a_chat(tiny: Model) -> None:
    first = words(5, 40)
    said = Stage(tiny).answer(first, PARAMS).ids()
    turn = [*first, *said, *words(6, 30)]
    spoken = (range(len(first), len(first) + len(said)),)
    heard = Stage(tiny).answer(turn, PARAMS, routes=True, spoken=spoken)
    assert told(heard) == found(tiny, turn, heard.ids(), spoken)


def test_of_a_model_with_adapters(tiny: Model, tmp_path: Path) -> None:
    """Those of the adapter that the request names, or of the model's own."""
    model = Model(random_checkpoint(), NativeOps(threads=2), context=None, cache_dtype="f16")
    for n in range(2):
        model.adapters.load(random_adapter(tmp_path / f"a{n}", TINY, n))
    prompt = words(9, 40)
    stage = Stage(model)
    heard = {name: stage.ask(prompt, PARAMS, routes=True, adapter=name) for name in (None, "a0", "a1")}
    stage.finish()
    for name, each in heard.items():
        ids = [*prompt, *each.ids()]
        spoken = [range(len(prompt), len(ids))]
        assert told(each) == model.route(ids, adapter=name, spoken=spoken, alternatives=None).routes[:-1]
    assert told(heard[None]) == found(tiny, prompt, heard[None].ids())
    assert told(heard["a0"]) != told(heard["a1"])
    model.adapter = "a1"
    assert model.route(prompt).routes == model.route(prompt, adapter="a1").routes


def test_pauses_leave_no_gap_and_nothing_twice(tiny: Model) -> None:
    """Too few pages for all: prompts and answers are paused, and go on from known pages."""
    stage = Stage(tiny, max_batch=6, cache_tokens=256)
    prompts = [words(n % 3, 9 + 11 * n) for n in range(12)]  # beginnings that others have had, too
    params = SamplingParams(temperature=0, max_tokens=45, min_tokens=45)
    heard = [stage.ask(prompt, params, routes=True) for prompt in prompts]
    stage.finish()
    assert stage.engine.stats().preemptions > 0
    for prompt, each in zip(prompts, heard, strict=True):
        assert told(each) == found(tiny, prompt, each.ids())[each.prefilled.cached_tokens :]


def test_a_paused_prompt_takes_no_pages_beyond_what_it_recorded(tiny: Model) -> None:
    """Another request may have computed the rest by then; its routes are wanted all the same."""
    stage, prompt = Stage(tiny), words(8, 700)
    heard = stage.ask(prompt, PARAMS, routes=True)
    stage.engine.step()
    (sequence,) = stage.engine._scheduler.running
    assert sequence.n_recorded == sequence.n_computed == 512
    stage.engine._scheduler._pause(sequence)
    stage.engine._scheduler.waiting.remove(sequence)
    other = stage.ask(prompt)  # after it, all pages are known
    while not other.of(0) or other.finish() is None:
        stage.engine.step()
    stage.engine._scheduler.waiting.push(sequence)
    stage.finish()
    assert told(heard) == found(tiny, prompt, heard.ids())


def test_off_costs_nothing(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No callback in the forward pass."""
    seen: list[tuple[bool, int]] = []

    def watched(ops: Ops, weights: Weights, config: ModelConfig, batch: Batch, on_route: Any, rows: Any) -> Array:
        seen.append((on_route is None, len(batch.tokens)))
        return forward(ops, weights, config, batch, on_route, rows)

    monkeypatch.setattr(forward_pass, "forward", watched)
    Stage(tiny).answer(words(1, 50), PARAMS)
    assert seen == [(True, 50)] + [(True, 1)] * 19
    seen.clear()
    Stage(tiny).answer(words(1, 50), PARAMS, routes=True)
    assert seen == [(False, 50)] + [(False, 1)] * 19


def test_dense_models_have_no_routes() -> None:
    config = ModelConfig(
        dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, hidden_dim=32, vocab_size=32000, n_experts=1,
        n_experts_per_token=1, max_seq_len=64,
    )  # fmt: skip
    dense = Model(random_checkpoint(config), NativeOps(threads=1), context=None, cache_dtype="f16")
    with pytest.raises(RequestError, match="has no router"):
        dense.route("Hello")
    with pytest.raises(RequestError, match="has no router"):
        Stage(dense).ask([1, 5], PARAMS, routes=True)
