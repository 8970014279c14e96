"""Routes and counts once more, in plain NumPy and float64, from the router's own inputs and weights.

T tokens, D dim, L layers, E experts. Nothing of octuor.routing is used for what is expected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octuor.api import Model, load
from octuor.checkpoint import Checkpoint
from octuor.ops.native import NativeOps
from octuor.ops.reference import ReferenceOps
from octuor.routing import Routing
from octuor.routing.tally import Tally
from tiny_models import random_checkpoint

F64Array = NDArray[np.float64]

TEXTS = (  # a line of each domain, said over
    "Once upon a time there was a little girl who had a red ball, and she played with it every day.",
    "The river Rhine rises in the Alps and flows through four countries to the North Sea.",
    "def add(a: int, b: int) -> int:\n    return a + b\n\nfor n in range(10):\n    print(add(n, n))\n",
    "Le petit chat dort sur la chaise, et la pluie tombe doucement sur le jardin.",
    "Der kleine Hund läuft über die Straße und bellt, denn er hat einen Vogel gesehen.",
    "user: How are you today?\nassistant: I am well, thank you. What can I do for you?",
)
FLOAT32 = 1e-5  # of logits of order 1, summed over D in float32
TIE = 1e-4  # logits closer than this may be ordered either way


class Watched:
    """A backend whose routers' inputs are kept, layer by layer of each pass."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.seen: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def route(self, x: NDArray[np.float32], router: Any, n_chosen: int) -> Any:
        self.seen.append(x.copy())
        return self._ops.route(x, router, n_chosen)


def watched(checkpoint: Checkpoint, ops: Any) -> tuple[Model, Watched]:
    spy = Watched(ops)
    return Model(checkpoint, spy, context=None, cache_dtype="f32"), spy  # type: ignore[arg-type]


def router_logits(model: Model, spy: Watched) -> F64Array:
    """[T, L, E] of the passes that were seen."""
    n_layers = model.config.n_layers
    layers = []
    for n in range(n_layers):
        x = np.concatenate(spy.seen[n::n_layers]).astype(np.float64)  # [T, D]
        layers.append(x @ model.checkpoint.get(f"layers.{n}.router").to_f32().astype(np.float64).T)
    return np.stack(layers, axis=1)


def assert_routes(found: Routing, logits: F64Array) -> NDArray[np.int64]:
    """The two largest logits, softmax over them; ties in favour of the lower number. Returns experts [T, L, 2]."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=-1)
    is_clear = (ranked[..., :2] - ranked[..., 1:3]).min(axis=-1) > TIE  # [T, L]
    assert is_clear.mean() > 0.995
    np.testing.assert_array_equal(found.experts[is_clear], order[is_clear][:, :2])
    top = np.exp(ranked[..., :2] - ranked[..., :1])
    np.testing.assert_allclose(found.weights[is_clear], (top / top.sum(axis=-1, keepdims=True))[is_clear], atol=FLOAT32)
    return np.where(is_clear[..., None], order[..., :2], found.experts)


def expected_share(experts: NDArray[np.int64], n_experts: int) -> F64Array:
    """Of all assignments, [L, E]."""
    is_chosen = (experts[..., None] == np.arange(n_experts)).any(axis=2)  # [T, L, E]
    return is_chosen.sum(axis=0) / (2 * len(experts))


def expected_repetition(texts: list[NDArray[np.int64]]) -> tuple[F64Array, F64Array]:
    """Of first choices, and of either, [L] each."""
    first = [part[1:, :, 0] == part[:-1, :, 0] for part in texts]
    either = [
        (part[1:, :, 0] == part[:-1, :, 0]) | (part[1:, :, 0] == part[:-1, :, 1])
        | (part[1:, :, 1] == part[:-1, :, 0]) | (part[1:, :, 1] == part[:-1, :, 1])
        for part in texts
    ]  # fmt: skip
    return np.concatenate(first).mean(axis=0), np.concatenate(either).mean(axis=0)


@pytest.mark.parametrize("kind", ["tiny reference", "tiny native", "pocket native"])
def test_routes_loads_and_repetition(kind: str) -> None:
    checkpoint = load().checkpoint if kind.startswith("pocket") else random_checkpoint()
    model, spy = watched(checkpoint, ReferenceOps() if kind.endswith("reference") else NativeOps(threads=2))
    tally = Tally.empty("all", model.config)
    texts = []
    for text in TEXTS:
        spy.seen.clear()
        found = model.route(text, alternatives=None)
        texts.append(assert_routes(found, router_logits(model, spy))[1:])
        tally.add(found, skip=1)
    together = np.concatenate(texts)
    assert tally.n_tokens == len(together)
    np.testing.assert_allclose(tally.share(), expected_share(together, model.config.n_experts), rtol=1e-12)
    first, either = expected_repetition(texts)
    np.testing.assert_allclose(tally.repetition(1), first, rtol=1e-12)
    np.testing.assert_allclose(tally.repetition(2), either, rtol=1e-12)


def test_probabilities_and_alternatives() -> None:
    """From the model's own logits: softmax in float64, and a sort."""
    model = Model(random_checkpoint(), NativeOps(threads=2), context=None, cache_dtype="f32")
    found = model.route(TEXTS[0], alternatives=3)
    logits = model.logits(found.ids.tolist())[:-1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert np.isnan(found.logprobs[0])
    assert np.isnan(found.alternatives.logprobs[0]).all()
    np.testing.assert_allclose(found.logprobs[1:], logprobs[np.arange(len(logprobs)), found.ids[1:]], atol=1e-5)
    best = np.argsort(-logprobs, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(found.alternatives.ids[1:], best)
    np.testing.assert_allclose(found.alternatives.logprobs[1:], np.take_along_axis(logprobs, best, axis=1), atol=1e-5)
    assert found.alternatives.pieces[1] == tuple(model.tokenizer.piece_bytes(int(i)).decode() for i in best[0])
