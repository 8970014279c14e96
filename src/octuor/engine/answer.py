"""One choice's words: from logits to a token, its text, and whether the answer ends. Knows one answer only."""

from __future__ import annotations

from concurrent.futures import Executor, Future

import numpy as np
from numpy.typing import NDArray

from octuor.api import Model
from octuor.engine.request import Finish, Matcher, Request, Step, TokenInfo
from octuor.engine.sequence import Sequence
from octuor.routing.values import TokenRoutes
from octuor.sampling import make_sampler
from octuor.stopping import StopMatcher
from octuor.tokenizer import Detokenizer

BoolArray = NDArray[np.bool_]


class Answer:
    """What one choice needs to choose its tokens. limit: tokens it may have."""

    def __init__(self, model: Model, request: Request, choice: int, limit: int) -> None:
        params, vocab_size = request.params, model.config.vocab_size
        self.choice = choice
        self.limit = limit
        self._detokenizer: Detokenizer | None = None
        self._allowed: BoolArray | None = None
        eos_id = None
        if model.checkpoint.tokenizer is not None:
            tokenizer = model.tokenizer
            self._detokenizer = Detokenizer(tokenizer, strip_leading_space=request.is_chat)
            eos_id = tokenizer.eos_id
            if tokenizer.n_words < vocab_size:  # a padded vocabulary: its end has no text
                self._allowed = np.arange(vocab_size) < tokenizer.n_words
        self._sampler = make_sampler(params, vocab_size, eos_id, choice=choice)
        self._end_ids = frozenset(params.stop_ids if eos_id is None else (*params.stop_ids, eos_id))
        self._stops = StopMatcher(params.stop)
        self._matcher: Matcher | None = None if request.grammar is None else request.grammar.matcher()
        self._mask: Future[BoolArray] | None = None

    def prepare(self, executor: Executor) -> None:
        """Begin to work out what the grammar permits next, beside the forward pass."""
        if self._matcher is not None:
            self._mask = executor.submit(self._matcher.mask)

    def choose(self, logits: NDArray[np.float32], sequence: Sequence, routes: TokenRoutes | None = None) -> Step:
        """The next token of a sequence, which it is added to.

        logits  [V] float32 of its last token
        routes  of that token, to be told with the next
        """
        sample = self._sampler(logits, sequence.answer, sequence.prompt, allowed=self._permitted())
        sequence.extend(sample.id)
        finish, text = None, ""
        if sample.id in self._end_ids:
            finish = Finish("stop")
        else:
            if self._matcher is not None:
                self._matcher.advance(sample.id)
            if self._detokenizer is not None:
                text = self._stops.feed(self._detokenizer.push(sample.id))
                if self._stops.match is not None:
                    finish = Finish("stop", self._stops.match)
        if finish is None and len(sequence.answer) == self.limit:
            finish = Finish("length")
        if finish is not None and self._detokenizer is not None:
            text += self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        return Step(self.choice, TokenInfo(sample.id, sample.logprob, sample.top), text, finish, routes)

    def _permitted(self) -> BoolArray | None:
        if self._matcher is None:
            return self._allowed
        mask = self._matcher.mask() if self._mask is None else self._mask.result()
        self._mask = None
        return mask if self._allowed is None else mask & self._allowed
