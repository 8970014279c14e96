"""The model under test, as tasks see it: scores of continuations and answers to prompts, each asked at most once.

What it said is kept in a journal (journal.py), so that a run that was killed goes on where it was. Answers come from
the engine, many at once; scores from likelihood.py.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from octuor.api import Model
from octuor.engine.engine import Engine, EngineSettings
from octuor.engine.request import Event, Failed, Prompt, Request, Step
from octuor.errors import RequestError
from octuor.evaluate.journal import Journal, key_of
from octuor.evaluate.likelihood import Continuation, Score, Scorer
from octuor.sampling import SamplingParams
from octuor.tokenizer import Tokenizer

Progress = Callable[[int, int], None]  # done, and in all
MAX_BATCH = 32
Value = TypeVar("Value", "Score", "Reply")


@dataclass(frozen=True)
class Wish:
    """An answer that is wanted.

    ids      the prompt as it is, BOS among them; too long a one loses its beginning, so that the answer has room
    params   max_tokens is set
    is_chat  True: the blank before the answer's first word is no part of it
    """

    ids: tuple[int, ...]
    params: SamplingParams
    is_chat: bool = False


@dataclass(frozen=True)
class Reply:
    """An answer: its text, its tokens, and whether it ended ("stop") or was cut ("length")."""

    text: str
    n_tokens: int
    finish: str


class Subject:
    """A model under test; use it in a `with` block.

    journal  what was asked and said before; None: nothing is kept
    """

    def __init__(self, model: Model, *, journal: Journal | None = None, cache_dtype: str = "f16") -> None:
        self.model = model
        self._journal = journal
        self._cache_dtype = cache_dtype
        self._scorer = Scorer(model, cache_dtype)
        self._engine: Engine | None = None
        self.n_known = 0  # that came from the journal
        self.n_scored = self.n_answered = self.n_answer_tokens = 0

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_engine()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own; TokenizerError where it has none."""
        return self.model.tokenizer

    @property
    def n_context(self) -> int:
        """Tokens of prompt and answer together."""
        return self.model.context

    @property
    def shared_tokens(self) -> tuple[int, int]:
        """Tokens that scoring computed, and those it would have without shared beginnings."""
        return self._scorer.n_tokens, self._scorer.n_given

    def score(self, items: Sequence[Continuation], progress: Progress | None = None) -> list[Score]:
        """The score of each continuation. A context too long for the model loses its beginning."""
        if self.model.budget is not None:  # a limit of memory has room for one cache
            self._stop_engine()
        room = self.n_context + 1  # the last token is not an input
        fitting = [_fit(item, room) for item in items]
        keys = [key_of("score", item.context, item.ids) for item in fitting]

        def ask(places: Sequence[int]) -> Iterator[tuple[int, Score]]:
            for at, score in self._scorer.scores([fitting[place] for place in places]):
                yield places[at], score

        found = self._remembered(keys, ask, lambda value: Score(**value), progress)
        self.n_scored += len(items)
        return found

    def answer(self, wishes: Sequence[Wish], progress: Progress | None = None) -> list[Reply]:
        """The answer to each wish. Wishes with a temperature differ by their params.seed."""
        if self.model.budget is not None:
            self._scorer.release()
        fitting = [self._fit(wish) for wish in wishes]
        keys = [key_of("answer", wish.ids, asdict(wish.params), wish.is_chat) for wish in fitting]

        def ask(places: Sequence[int]) -> Iterator[tuple[int, Reply]]:
            for at, reply in self._answers([fitting[place] for place in places]):
                yield places[at], reply

        found = self._remembered(keys, ask, lambda value: Reply(**value), progress)
        self.n_answered += len(found)
        self.n_answer_tokens += sum(reply.n_tokens for reply in found)
        return found

    def recall(self, key: str) -> dict[str, Any] | None:
        """What `keep` was given under that key, in this run or one before it that was killed."""
        return None if self._journal is None else self._journal.values.get(key)

    def keep(self, key: str, value: Mapping[str, Any]) -> None:
        """Put down what others said, such as a judge; keys are journal.key_of's."""
        if self._journal is not None:
            self._journal.keep(key, value)

    def _remembered(
        self,
        keys: Sequence[str],
        ask: Callable[[Sequence[int]], Iterator[tuple[int, Value]]],
        read: Callable[[dict[str, Any]], Value],
        progress: Progress | None,
    ) -> list[Value]:
        """Values of all keys: those in the journal as they are, others asked for once and put there as they come."""
        known = {} if self._journal is None else self._journal.values
        found: dict[str, Value] = {key: read(known[key]) for key in set(keys) if key in known}
        self.n_known += sum(key in found for key in keys)
        first: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key not in found:
                first.setdefault(key, place)
        n_first = len(found)
        for n_done, (place, value) in enumerate(ask(list(first.values())), start=1):
            found[keys[place]] = value
            if self._journal is not None:
                self._journal.keep(keys[place], asdict(value))
            if progress is not None:
                progress(n_first + n_done, n_first + len(first))
        if self._journal is not None:
            self._journal.flush()
        return [found[key] for key in keys]

    def _stop_engine(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    def _fit(self, wish: Wish) -> Wish:
        if wish.params.max_tokens is None:
            raise RequestError("wish: expected max_tokens, found none")
        room = self.n_context - wish.params.max_tokens
        if room < 1:
            raise RequestError(
                f"answer: expected fewer tokens than the context of {self.n_context}, found {wish.params.max_tokens}"
            )
        return wish if len(wish.ids) <= room else replace(wish, ids=wish.ids[-room:])

    def _answers(self, wishes: Sequence[Wish]) -> Iterator[tuple[int, Reply]]:
        """Each wish's place and reply as they end, MAX_BATCH at work at once."""
        if not wishes:
            return
        if self._engine is None:
            self._engine = Engine(self.model, EngineSettings(MAX_BATCH, MAX_BATCH, cache_dtype=self._cache_dtype))
            self._engine.start()
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        waiting = iter(sorted(range(len(wishes)), key=lambda place: wishes[place].ids))  # neighbours begin alike
        pieces: dict[int, list[str]] = {}
        counts: dict[int, int] = {}

        def submit(place: int) -> None:
            assert self._engine is not None
            wish = wishes[place]
            pieces[place], counts[place] = [], 0
            request = Request(Prompt(wish.ids), wish.params, is_chat=wish.is_chat, name=f"eval-{place}")
            self._engine.submit(request, lambda event: events.put((place, event)))

        for place in islice(waiting, 2 * MAX_BATCH):
            submit(place)
        while pieces:
            place, event = events.get()
            if isinstance(event, Failed):
                raise event.error
            if not isinstance(event, Step):
                continue
            pieces[place].append(event.text)
            counts[place] += event.token is not None
            if event.finish is not None:
                yield place, Reply("".join(pieces.pop(place)), counts.pop(place), event.finish.reason)
                following = next(waiting, None)
                if following is not None:
                    submit(following)


def _fit(item: Continuation, room: int) -> Continuation:
    """The item's last `room` tokens. Raises RequestError where the continuation alone is longer."""
    if len(item.context) + len(item.ids) <= room:
        return item
    n_context = room - len(item.ids)
    if n_context < 1:
        raise RequestError(f"continuation: expected fewer than {room} tokens, found {len(item.ids)}")
    return Continuation(item.context[-n_context:], item.ids)
