"""From passes and from an engine's events to a Routing."""

from __future__ import annotations

import numpy as np
import pytest

from octuor.api import Model
from octuor.engine.engine import Engine
from octuor.engine.request import Event, Prefilled, Prompt, Request, Step
from octuor.errors import RequestError
from octuor.ops import LayerRouting
from octuor.ops.reference import ReferenceOps
from octuor.routing import Recording
from octuor.routing.recording import PassLog, text_pieces
from octuor.sampling import SamplingParams


def layer(rows: list[int], n: int) -> LayerRouting:
    """One expert a token, told by the token's own number and the layer's."""
    experts = np.array([[10 * n + row] for row in rows], dtype=np.int32)
    return LayerRouting(experts, experts.astype(np.float32), np.zeros((len(rows), 30), np.float32))


@pytest.mark.parametrize("rows", [range(4), range(3, 4), range(1), range(1, 3)])
def test_a_pass_tells_of_the_rows_that_are_asked_for(rows: range) -> None:
    log = PassLog(ReferenceOps())
    for n in range(2):
        log(n, layer([0, 1, 2, 3], n))
    routes = log.routes(rows)
    assert len(routes) == len(rows)
    assert routes.experts.tolist() == [[[row], [10 + row]] for row in rows]
    assert routes.experts.dtype == np.int16
    assert routes.weights.dtype == np.float32
    assert routes.weights.tolist() == [[[row], [10 + row]] for row in rows]
    assert routes[:1] == log.routes(rows[:1])
    assert routes.experts.flags.c_contiguous


def test_events_of_an_engine_make_a_routing(pocket: Model) -> None:
    """The same as model.route's, probabilities included, but for the prompt's, which were not asked for."""
    prompt = pocket.tokenizer.encode("Tell me a story about a dog.")
    prompt = [pocket.tokenizer.bos_id, *prompt]
    events: list[Event] = []
    engine = Engine(pocket)
    params = SamplingParams(temperature=0, max_tokens=12, logprobs=3)
    engine.submit(Request(Prompt(prompt), params, routes=True), events.append)
    while not engine.is_idle:
        engine.step()
    recording = Recording(pocket.config.n_experts, pocket.tokenizer)
    answer = []
    for event in events:
        if isinstance(event, Prefilled):
            assert event.routes is not None
            for token_id in prompt[event.cached_tokens :]:
                recording.add_token(token_id)
            recording.add_routes(event.routes)
        elif isinstance(event, Step) and event.token is not None:
            answer.append(event.token.id)
            recording.add_token(event.token.id, event.token.logprob, event.token.top)
            if event.routes is not None:
                recording.add_routes(event.routes)
    found = recording.routing()
    whole = pocket.route([*prompt, *answer], spoken=[range(len(prompt), len(prompt) + len(answer))], alternatives=3)
    n = len(found)
    assert n == len(prompt) + len(answer) - 1
    assert found.routes == whole.routes[:n]
    assert found.pieces == whole.pieces[:n]
    assert np.isnan(found.logprobs[: len(prompt)]).all()
    np.testing.assert_array_equal(found.logprobs[len(prompt) :], whole.logprobs[len(prompt) : n])
    np.testing.assert_array_equal(found.alternatives.ids[len(prompt) :], whole.alternatives.ids[len(prompt) : n])
    assert found.alternatives.pieces[len(prompt) :] == whole.alternatives.pieces[len(prompt) : n]


def test_nothing_recorded_is_said(pocket: Model) -> None:
    recording = Recording(8, pocket.tokenizer)
    recording.add_token(5)
    with pytest.raises(RequestError, match="expected recorded routes, found none"):
        recording.routing()


def test_pieces_are_the_text_whatever_it_is_made_of(pocket: Model) -> None:
    """Characters of several bytes come with their last token; an unfinished one at the end is told as one."""
    said = "Ünder 日本\n\n  🦊 end"
    ids = [1, *pocket.tokenizer.encode(said)]
    pieces = text_pieces(pocket.tokenizer, ids)
    assert "".join(pieces) == said
    assert pieces[0] == ""
    fox = ids.index(0xF0 + 3) if 0xF0 + 3 in ids else None  # byte pieces follow the three control ids
    assert fox is not None
    assert text_pieces(pocket.tokenizer, ids[: fox + 1])[-1] == "\ufffd"
    assert text_pieces(pocket.tokenizer, ids[1:3])[0].startswith(" ")  # no BOS: ids that continue a text
    assert text_pieces(pocket.tokenizer, []) == ()
    assert text_pieces(None, [1, 2]) == ("", "")


def test_alternatives_name_control_tokens(pocket: Model) -> None:
    """The end of an answer is what might have stood there, too; a padded vocabulary's end has no text."""
    recording = Recording(8, pocket.tokenizer)
    recording.add_token(500, -1.0, ((2, -0.5), (32500, -0.75)))
    recording.add_token(501)
    recording.add_routes(pocket.route([500, 501], alternatives=None).routes)
    found = recording.routing()
    assert found.alternatives.pieces == (("</s>", ""), ("", ""))
    assert found.alternatives.ids.tolist() == [[2, 32500], [0, 0]]
    np.testing.assert_array_equal(found.alternatives.logprobs, np.array([[-0.5, -0.75], [np.nan, np.nan]], np.float32))


@pytest.mark.parametrize(
    ("ids", "spoken", "says"),
    [
        ([], (), "expected 1 to the 1024 tokens of the context, found 0"),
        ([1] * 1025, (), "found 1025; route it in parts"),
        ([1, 32000], (), "found 32000"),
        ([1, 5], (range(1, 3),), "expected ranges within the 2 tokens"),
        ([1, 5], (range(0, 2, 2),), "expected ranges within"),
    ],
)
def test_texts_that_cannot_be_routed(pocket: Model, ids: list[int], spoken: tuple[range, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        pocket.route(ids, spoken=spoken)


def test_a_model_without_words_routes_ids(tiny: Model) -> None:
    from octuor.ops.native import NativeOps
    from tiny_models import random_checkpoint

    mute = Model(random_checkpoint(tokenizer=False), NativeOps(threads=2), context=None, cache_dtype="f16")
    found = mute.route([1, 700, 900])
    assert found.pieces == ("", "", "")
    assert found.routes == tiny.route([1, 700, 900]).routes
    assert found.alternatives.pieces[2] == ("",) * 5


def test_progress_is_told_pass_by_pass(tiny: Model) -> None:
    told: list[tuple[int, int]] = []
    tiny.route([1, *range(500, 1499)], alternatives=None, on_prefill=lambda done, total: told.append((done, total)))
    assert told == [(512, 1000), (1000, 1000)]
