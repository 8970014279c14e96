"""From a prompt's ids to a stream of tokens: one sequence, one cache, one sampler.

Knows ids, logits and text; not files, chat formats or other sequences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octuor import model
from octuor.batch import step
from octuor.cache import PAGE_SIZE, KVCache
from octuor.config import ModelConfig
from octuor.errors import CapacityError, RequestError
from octuor.ops import Ops
from octuor.sampling import Sampler
from octuor.stopping import StopMatcher
from octuor.tokenizer import Detokenizer
from octuor.weights import Weights

PREFILL_CHUNK = 512  # tokens a forward pass: enough to meet each expert with a full tile, small in memory

FinishReason = Literal["stop", "length", "cancelled"]
OnPrefill = Callable[[int, int], None]  # prompt tokens done, and in all


@dataclass(frozen=True)
class Token:
    """One generated token.

    text     what it adds to the answer; "" while a character or a stop string may still be completed
    logprob  natural logarithm of its probability under the model's own logits; None if not asked for
    top      the likeliest ids with theirs, as many as were asked for
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """What an answer took.

    cached_tokens    of the prompt, whose keys and values were still there from an earlier call
    prefill_s        seconds from the start to the first logits
    decode_s         seconds from then to the last token
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    prefill_s: float
    decode_s: float


def cache_tokens(config: ModelConfig, n_tokens: int, chunk: int = PREFILL_CHUNK) -> int:
    """Positions that a cache holds at once for a sequence of n_tokens, appended `chunk` at a time."""
    if config.sliding_window is None:
        return n_tokens
    return min(n_tokens, config.sliding_window + chunk + 2 * PAGE_SIZE)


class Context:
    """A sequence's place in a cache, kept between calls so that a shared beginning is not computed twice."""

    def __init__(
        self, config: ModelConfig, ops: Ops, n_tokens: int, cache_dtype: str, chunk: int = PREFILL_CHUNK
    ) -> None:
        self._ids: list[int] = []
        self._owner = 0
        self._cache = KVCache(config, ops.zeros, cache_tokens(config, n_tokens, chunk), dtype=cache_dtype)
        self._sequence = self._cache.new()

    def belong_to(self, owner: int) -> None:
        """Forget everything if it was computed for another owner: an adapter's number, 0 for none."""
        if owner != self._owner:
            self._cache.free(self._sequence)
            self._ids, self._owner = [], owner

    def rewind(self, ids: Sequence[int]) -> int:
        """Keep what it shares with the beginning of ids, but for the last: its logits are wanted.

        And but for the one before it, for a prompt's token that runs alone is computed as an answer's, which may
        differ in the last bits.
        """
        shared = 0
        for held, wanted in zip(self._ids, ids[:-2], strict=False):
            if held != wanted:
                break
            shared += 1
        try:
            self._cache.truncate(self._sequence, shared)
        except CapacityError:  # a sliding window has let go of what the cut needs
            self._cache.free(self._sequence)
            shared = 0
        del self._ids[shared:]
        return shared

    def run(
        self, ops: Ops, weights: Weights, config: ModelConfig, ids: Sequence[int], on_route: model.OnRoute | None = None
    ) -> NDArray[np.float32]:
        """Append ids and return the logits [V] that follow the last of them."""
        batch = step(self._cache, [(self._sequence, ids)])
        hidden = model.forward(ops, weights, config, batch, on_route, batch.last_rows)
        self._ids.extend(ids)
        return ops.to_numpy(model.logits(ops, weights, hidden))[0]


@dataclass
class Progress:
    """How far an answer is; apart from Generation, so that dropping that one ends the work at once."""

    usage: Usage
    finish_reason: FinishReason | None = None


class Generation(Iterator[Token]):
    """An answer in the making: iterate for its tokens, then read finish_reason and usage.

    text  the answer so far
    """

    def __init__(self, tokens: Generator[Token, None, None], progress: Progress) -> None:
        self._tokens = tokens
        self._progress = progress
        self.text = ""

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it runs; "stop" (EOS, a stop id or a stop string), "length" (max_tokens or the end of
        the context), "cancelled" (closed before its end)."""
        return self._progress.finish_reason

    @property
    def usage(self) -> Usage:
        """What the answer has taken so far."""
        return self._progress.usage

    def __next__(self) -> Token:
        token = next(self._tokens)
        self.text += token.text
        return token

    def close(self) -> None:
        """Stop before the end; the cache is free again at once."""
        self._tokens.close()
        if self._progress.finish_reason is None:
            self._progress.finish_reason = "cancelled"


def generate(
    ops: Ops,
    weights: Weights,
    config: ModelConfig,
    lease: AbstractContextManager[Context],
    ids: Sequence[int],
    sampler: Sampler,
    detokenizer: Detokenizer | None,
    *,
    n_context: int,
    end_ids: frozenset[int],
    allowed: NDArray[np.bool_] | None = None,
    on_prefill: OnPrefill | None = None,
    chunk: int = PREFILL_CHUNK,
) -> Generation:
    """Answer one prompt.

    lease        entered for the first token, left when the answer ends, fails, is closed or dropped
    ids          [T] the prompt as it is, nothing is added
    n_context    tokens that prompt and answer may have together
    detokenizer  None: tokens carry no text, and stop strings cannot be asked for
    end_ids      ids that end the answer, EOS among them
    allowed      [V] bool, ids that may be chosen at all; None: every one
    on_prefill   called with prompt tokens done and in all, after each chunk
    chunk        prompt tokens in a pass, no more than the context was made for

    Raises RequestError if the prompt is empty, has an id outside the vocabulary, or fills the context.
    """
    check_ids(ids, config.vocab_size)
    if not len(ids):
        raise RequestError("prompt: expected at least one token, found none; begin with BOS")
    if len(ids) >= n_context:
        raise RequestError(
            f"prompt: expected fewer tokens than the context of {n_context}, found {len(ids)}; "
            "shorten it or raise the context"
        )
    params = sampler.params
    if params.stop and detokenizer is None:
        raise RequestError("stop: expected a model with a tokenizer, found none; use stop_ids")
    room = n_context - len(ids)
    limit = room if params.max_tokens is None else min(room, params.max_tokens)
    progress = Progress(Usage(len(ids), 0, 0, 0.0, 0.0))

    def tokens() -> Generator[Token, None, None]:
        if limit == 0:
            progress.finish_reason = "length"
            return
        with lease as context:
            yield from answer(context)

    def answer(context: Context) -> Generator[Token, None, None]:
        began = time.perf_counter()
        generated: list[int] = []
        cached = context.rewind(ids)

        def account() -> None:
            now = time.perf_counter()
            progress.usage = Usage(len(ids), len(generated), cached, first_logits_at - began, now - first_logits_at)

        for start, end in pieces(cached, len(ids), chunk):
            logits = context.run(ops, weights, config, ids[start:end])
            first_logits_at = time.perf_counter()
            account()
            if on_prefill is not None:
                on_prefill(end, len(ids))
        matcher = StopMatcher(params.stop)
        while True:
            sample = sampler(logits, generated, ids, allowed=allowed)
            generated.append(sample.id)
            text = ""
            if sample.id in end_ids:
                progress.finish_reason = "stop"
            elif detokenizer is not None:
                text = matcher.feed(detokenizer.push(sample.id))
                if matcher.match is not None:
                    progress.finish_reason = "stop"
            if progress.finish_reason is None and len(generated) == limit:
                progress.finish_reason = "length"
            if progress.finish_reason is not None and detokenizer is not None:
                text += matcher.feed(detokenizer.flush()) + matcher.flush()
            account()
            yield Token(sample.id, text, sample.logprob, sample.top)
            if progress.finish_reason is not None:
                return
            logits = context.run(ops, weights, config, [sample.id])

    return Generation(tokens(), progress)


def pieces(start: int, end: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Up to `chunk` tokens of a prompt at a time, none of them alone unless the whole is."""
    while start < end:
        until = min(start + chunk, end)
        if end - until == 1:
            until -= 1
        yield start, until
        start = until


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raise RequestError on the first id outside the vocabulary."""
    for place, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"token ids: expected 0 to {vocab_size - 1}, found {token_id} at place {place}; "
                "is this the model's own tokenizer?"
            )
