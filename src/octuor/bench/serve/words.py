"""Prompts of an exact number of tokens: ids at random, or English words that are one token each.

Words are tried out once, before the test: those that lengthen a text by exactly one token are kept, and a text of n
tokens is then a matter of counting. No request during the test has to ask for a tokenizer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from octuor.errors import RequestError

# Short and frequent, so that common vocabularies have most of them as one token with the blank before it.
_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city community name president team minute idea body information back parent face
others level office door health person art war history party result change morning reason research girl guy moment
air teacher force education foot boy age policy music market sense nation plan college interest death experience
effect use class control field development role effort rate heart drug show leader light voice wife police mind
price report decision son view relationship town road arm difference value building action season society tax
director position player record paper space ground form event official matter center couple site project activity
star table need court oil situation cost industry figure street image phone data picture practice piece land product
doctor wall patient worker news test movie north love support technology step baby computer type attention film
tree source organization hair window evidence culture thought fish chance letter song century energy risk machine
"""
WORDS = tuple(_TEXT.split())

Count = Callable[[str], Awaitable[int]]  # tokens of a prompt of this text, everything around it included
PER_WORD = 1.3  # tokens, where nobody can count them
ENOUGH = 40  # different words below which prompts would repeat themselves


@dataclass(frozen=True)
class Prompt:
    """What a request asks to be continued or answered: a text, token ids, or messages; n_tokens None: unknown."""

    content: str | list[int] | list[Any]
    n_tokens: int | None = None


class Prompts(Protocol):
    """Makes prompts by length."""

    def make(self, length: int, rng: np.random.Generator) -> Prompt:
        """A new prompt of so many tokens, or of the nearest number it can be made of."""

    def after(self, length: int, rng: np.random.Generator) -> Prompts:
        """The same with so many tokens more at the beginning, which all prompts have in common."""


@dataclass(frozen=True)
class RandomIds:
    """Token ids, all of a vocabulary equally likely, after `prefix`."""

    vocabulary: range
    prefix: tuple[int, ...] = ()

    def make(self, length: int, rng: np.random.Generator) -> Prompt:
        ids = [*self.prefix, *self._draw(length, rng)]
        return Prompt(ids, len(ids))

    def after(self, length: int, rng: np.random.Generator) -> RandomIds:
        return replace(self, prefix=tuple(self._draw(length, rng)))

    def _draw(self, length: int, rng: np.random.Generator) -> list[int]:
        return rng.integers(self.vocabulary.start, self.vocabulary.stop, length).tolist()


@dataclass(frozen=True)
class RandomWords:
    """English words.

    words      of `per_word` tokens each
    begin      the first word of every prompt; with what surrounds a prompt (BOS, a chat's template) it has `overhead`
               tokens. At the beginning of a text, a word may be other tokens than inside
    prefix     words after it that all prompts have in common
    is_exact   whether these numbers are known
    """

    words: tuple[str, ...]
    begin: str
    overhead: int
    prefix: tuple[str, ...] = ()
    per_word: float = 1.0
    is_exact: bool = True

    def make(self, length: int, rng: np.random.Generator) -> Prompt:
        drawn = self._draw(length - self.overhead, rng)
        text = " ".join([self.begin, *self.prefix, *drawn])
        return Prompt(text, self.overhead + len(self.prefix) + len(drawn) if self.is_exact else None)

    def after(self, length: int, rng: np.random.Generator) -> RandomWords:
        return replace(self, prefix=tuple(self._draw(length, rng)))

    def _draw(self, n_tokens: int, rng: np.random.Generator) -> list[str]:
        drawn = rng.integers(0, len(self.words), max(0, round(n_tokens / self.per_word)))
        return [self.words[i] for i in drawn]


async def find_words(count: Count) -> RandomWords:
    """Prompts of the words that are one token where `count` counts; where those are too few, of all words, whose mean
    length in tokens is known then."""
    begin = WORDS[0]
    overhead = await count(begin)

    async def single(words: Sequence[str]) -> list[str]:
        # a word adds at least one token, so that a sum that fits says it of each
        if await count(" ".join([begin, *words])) == overhead + len(words):
            return list(words)
        if len(words) == 1:
            return []
        half = len(words) // 2
        return [*await single(words[:half]), *await single(words[half:])]

    found = await single(WORDS)
    if len(found) >= ENOUGH and await count(" ".join([begin, *found])) == overhead + len(found):
        return RandomWords(tuple(found), begin, overhead)
    per_word = (await count(" ".join([begin, *WORDS])) - overhead) / len(WORDS)
    return RandomWords(WORDS, begin, overhead, per_word=max(per_word, 1.0), is_exact=False)


def guessed_words() -> RandomWords:
    """Words without anyone to count their tokens."""
    return RandomWords(WORDS, WORDS[0], 0, per_word=PER_WORD, is_exact=False)


def parse_vocabulary(option: str, text: str) -> range:
    """Ids as 1000-32000: the first, and one past the last. Raises RequestError."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise RequestError(f"{option}: expected ids such as 1000-32000, found {text!r}")
    return range(int(first), int(last))
