"""Prompts: as long as they were to be, by whoever counts."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from octuor.bench.serve.words import WORDS, RandomIds, RandomWords, find_words, guessed_words, parse_vocabulary
from octuor.errors import RequestError

TWO = frozenset(WORDS[5:60:7])  # words of two tokens in the vocabulary below


class Counter:
    """Tokens of a prompt: three around it, one a word, and one more for words of two and for a first word."""

    def __init__(self, two: frozenset[str] = TWO) -> None:
        self.two = two
        self.asked = 0

    async def __call__(self, text: str) -> int:
        self.asked += 1
        return self.count(text)

    def count(self, text: str) -> int:
        words = text.split()
        return 3 + len(words) + sum(word in self.two for word in words) + bool(words)


def content(prompts: RandomWords, length: int, seed: int = 0) -> str:
    made = prompts.make(length, np.random.default_rng(seed)).content
    assert isinstance(made, str)
    return made


def test_words_of_one_token_are_found_in_few_questions() -> None:
    count = Counter()
    prompts = asyncio.run(find_words(count))
    assert prompts.is_exact
    assert set(prompts.words) == set(WORDS) - TWO
    assert count.asked < 150


@pytest.mark.parametrize("length", [6, 7, 100, 999])
def test_prompts_have_exactly_the_length(length: int) -> None:
    count = Counter()
    prompts = asyncio.run(find_words(count))
    assert count.count(content(prompts, length)) == length
    assert prompts.make(length, np.random.default_rng(0)).n_tokens == length


def test_a_prompt_shorter_than_what_surrounds_it_says_so() -> None:
    count = Counter()
    prompts = asyncio.run(find_words(count))
    made = prompts.make(1, np.random.default_rng(0))
    assert made.n_tokens == count.count(content(prompts, 1)) == prompts.overhead == 5


def test_a_common_beginning_comes_on_top() -> None:
    count = Counter()
    rng = np.random.default_rng(0)
    prompts = asyncio.run(find_words(count)).after(30, rng)
    one, two = (content(prompts, 50, seed) for seed in (1, 2))
    assert count.count(one) == count.count(two) == 80 == prompts.make(50, rng).n_tokens
    assert one.split()[:31] == two.split()[:31]
    assert one.split()[31:] != two.split()[31:]


def test_a_vocabulary_without_the_words_gives_prompts_of_about_the_length() -> None:
    count = Counter(frozenset(WORDS))
    prompts = asyncio.run(find_words(count))
    assert not prompts.is_exact
    assert prompts.make(200, np.random.default_rng(0)).n_tokens is None
    assert count.count(content(prompts, 200)) == pytest.approx(200, abs=2)


def test_guesses_make_no_claim() -> None:
    made = guessed_words().make(130, np.random.default_rng(0))
    assert made.n_tokens is None
    assert isinstance(made.content, str)
    assert len(made.content.split()) == pytest.approx(100, abs=2)


def test_ids_of_a_vocabulary() -> None:
    rng = np.random.default_rng(0)
    made = RandomIds(range(100, 110)).make(500, rng)
    assert made.n_tokens == 500
    assert set(made.content) == set(range(100, 110))
    prompts = RandomIds(range(100, 110)).after(20, rng)
    one, two = (prompts.make(5, rng).content for _ in range(2))
    assert len(one) == len(two) == 25
    assert one[:20] == two[:20]
    assert one != two


def test_a_vocabulary_on_the_command_line() -> None:
    assert parse_vocabulary("--vocabulary", "3-32000") == range(3, 32000)
    for text in ("", "5", "5-5", "9-3", "a-b", "-3-5"):
        with pytest.raises(RequestError, match="--vocabulary: expected ids such as 1000-32000"):
            parse_vocabulary("--vocabulary", text)
