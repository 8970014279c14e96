"""A text through the model for its routes, as the engine computes it. T tokens of a pass, V vocab_size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octuor import model as forward_pass
from octuor.batch import alone_in_prompt, cut, step
from octuor.cache import KVCache
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.ops import Ops
from octuor.routing.recording import PassLog, Recording
from octuor.routing.values import Routing, TokenRoutes
from octuor.sampling import describe
from octuor.weights import Weights


@dataclass(frozen=True)
class Traced:
    """What one pass gave, of all its tokens.

    logits  [T, V] float32 of the tokens after these; None where they were not asked for
    """

    routes: TokenRoutes
    logits: NDArray[np.float32] | None


def trace(
    ops: Ops,
    weights: Weights,
    config: ModelConfig,
    cache: KVCache,
    ids: Sequence[int],
    *,
    spoken: Sequence[range] = (),
    chunk: int,
    has_logits: bool,
) -> Iterator[Traced]:
    """Run ids in passes of up to `chunk` tokens, at least two.

    cache       has room for all of ids
    spoken      parts that the model said itself, computed token by token as they were then: the same bits
    has_logits  False leaves out the last layer's experts and the head
    """
    sequence = cache.new()
    alone = alone_in_prompt(len(ids), spoken)
    while sequence.length < len(ids):
        runs = cut(alone, sequence.length, chunk)
        n_tokens = runs[-1].stop - sequence.length
        wanted = range(n_tokens) if has_logits else range(n_tokens - 1, n_tokens)
        log = PassLog(ops)
        batch = step(cache, [(sequence, ids[run.start : run.stop]) for run in runs])
        rows = np.asarray(wanted, dtype=np.int32)
        hidden = forward_pass.forward(ops, weights, config, batch, log, rows)
        logits = ops.to_numpy(forward_pass.logits(ops, weights, hidden)) if has_logits else None
        yield Traced(log.routes(range(n_tokens)), logits)


def record(
    passes: Iterator[Traced],
    ids: Sequence[int],
    recording: Recording,
    n_alternatives: int,
    on_pass: Callable[[int, int], None] | None = None,
) -> Routing:
    """All passes over ids as one Routing, with probabilities and alternatives where the passes have logits.

    on_pass  called with tokens done and in all
    """
    recording.add_token(ids[0])
    done = 0
    later = iter(ids[1:])
    for traced in passes:
        recording.add_routes(traced.routes)
        done += len(traced.routes)
        if on_pass is not None:
            on_pass(done, len(ids))
        if traced.logits is None:
            continue
        for row, token_id in zip(traced.logits, later, strict=False):  # the last row foretells no token of these
            sample = describe(row, token_id, n_alternatives)
            recording.add_token(sample.id, sample.logprob, sample.top)
    for token_id in later:
        recording.add_token(token_id)
    return recording.routing()


def check_has_router(config: ModelConfig) -> None:
    """Raise RequestError for a dense model."""
    if config.is_dense:
        raise RequestError(
            "routes: expected a mixture of experts, found a dense model, which has no router; load a Mixtral"
        )
